#!/bin/bash
# The first program of the container: makes the database where there is none, and then becomes the server. It keeps the
# conventions of the official image as its documentation tells them; written for this image, and what is better here:
# a first start that was interrupted begins anew, instead of leaving half a database that is taken for a whole one.
set -Eeo pipefail
shopt -s nullglob

pgbake=/nix/var/pgbake/profiles/$PG_MAJOR/current
scripts=/docker-entrypoint-initdb.d
migrations=/usr/share/pgbake/migrations/first-start

die() {
	printf '%s\n' "$@" >&2
	exit 1
}

# Take a variable's value from the file that VARIABLE_FILE names.
from_file() {
	local name=$1 file=${1}_FILE
	[ -n "${!file:-}" ] || return 0
	[ -z "${!name:-}" ] || die "error: both $name and $file are set (but are exclusive): set one of them"
	[ -r "${!file}" ] || die "error: $file names ${!file}, which cannot be read"
	export "$name"="$(<"${!file}")"
	unset "$file"
}

read_environment() {
	local name
	for name in POSTGRES_PASSWORD POSTGRES_USER POSTGRES_DB POSTGRES_INITDB_ARGS; do from_file "$name"; done
	export POSTGRES_USER=${POSTGRES_USER:-postgres}
	export POSTGRES_DB=${POSTGRES_DB:-$POSTGRES_USER}
	export PGDATA=${PGDATA:?PGDATA says nothing: it names the data directory}
}

# Whether these arguments of postgres ask for something that needs no database.
asks_only() {
	local word
	for word; do
		case "$word" in -'?' | --help | --describe-config | -V | --version) return 0 ;; esac
	done
	return 1
}

# Make the directories, as the user that the server will be where that is possible.
make_directories() {
	local user=$1
	mkdir -p "$PGDATA"
	# A server takes 0700 and 0750 only; a mounted directory may have anything.
	[ "$(stat -c %a "$PGDATA")" = 750 ] || chmod 0700 "$PGDATA" || :
	mkdir -p /run/postgresql
	chmod 3777 /run/postgresql || :
	if [ -n "$POSTGRES_INITDB_WALDIR" ]; then
		mkdir -p "$POSTGRES_INITDB_WALDIR"
		chmod 0700 "$POSTGRES_INITDB_WALDIR" || :
	fi
	if [ "$user" = 0 ]; then
		find "$PGDATA" ${POSTGRES_INITDB_WALDIR:+"$POSTGRES_INITDB_WALDIR"} ! -user postgres \
			-exec chown -h postgres {} +
	fi
}

# Remove what lies in a directory, and not the directory: it may be mounted.
empty() { find "$1" -mindepth 1 -maxdepth 1 ! -name lost+found -exec rm -rf {} +; }

require_password() {
	if [ -z "$POSTGRES_PASSWORD" ] && [ "$POSTGRES_HOST_AUTH_METHOD" != trust ]; then
		die "error: Database is uninitialized and superuser password is not specified." \
			"Set POSTGRES_PASSWORD to a password that is not empty: -e POSTGRES_PASSWORD=..., or have it read from" \
			"a file: -e POSTGRES_PASSWORD_FILE=/run/secrets/..." \
			"POSTGRES_HOST_AUTH_METHOD=trust lets everybody in without one, which is not recommended:" \
			"https://www.postgresql.org/docs/current/auth-trust.html"
	fi
	if [ "$POSTGRES_HOST_AUTH_METHOD" = trust ]; then
		printf '%s\n' \
			"warning: POSTGRES_HOST_AUTH_METHOD has been set to \"trust\": whoever reaches the port is let in, as any" \
			"user, superusers included, without a password, even where POSTGRES_PASSWORD is set. Use it for tests only." >&2
	fi
}

# Make the database in a directory of its own, and move it up from there. The empty directory stays as the sign that the first start
# is not through yet.
make_database() {
	local new=$PGDATA/.pgbake-first-start file options=() own=()
	eval "own=($POSTGRES_INITDB_ARGS)"
	[ -z "$POSTGRES_INITDB_WALDIR" ] || options+=(--waldir "$POSTGRES_INITDB_WALDIR")
	[ "$PG_MAJOR" -lt 14 ] || options+=(--no-instructions)
	if [ -n "$POSTGRES_PASSWORD" ]; then
		initdb -D "$new" --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") "${options[@]}" "${own[@]}"
	else
		initdb -D "$new" --username="$POSTGRES_USER" "${options[@]}" "${own[@]}"
	fi
	{
		printf '\n# --- for a container ---\n'
		printf "listen_addresses = '*'\nunix_socket_directories = '/run/postgresql'\n"
		# What the extensions must have preloaded and set; another image of the same bundle brings its own.
		printf "include_if_exists '%s'\n" "$pgbake/settings.conf"
	} >> "$new/postgresql.conf"
	local method=$POSTGRES_HOST_AUTH_METHOD
	: "${method:=$(postgres -D "$new" -C password_encryption "$@")}"
	{
		[ "$method" != trust ] || printf '\n# warning: trust lets everybody in without a password'
		printf '\nhost all all all %s\n' "$method"
	} >> "$new/pg_hba.conf"
	# Of an image with a machine definition, whose clusters lie at .../MAJOR/CLUSTER.
	if [ -e "$migrations" ]; then "$migrations" "$PG_MAJOR" "${PGDATA##*/}" "$new"; fi
	for file in "$new"/* "$new"/.[!.]*; do mv "$file" "$PGDATA/"; done
}

# Run SQL as the superuser in the database of the user's, over the socket: docker_process_sql [psql's arguments].
docker_process_sql() {
	PGHOST='' PGHOSTADDR='' psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --no-password --no-psqlrc \
		--dbname "$POSTGRES_DB" "$@"
}

start_for_init() {
	local arguments
	printf -v arguments '%q ' "$@" -c listen_addresses= -p "${PGPORT:-5432}"
	NOTIFY_SOCKET='' pg_ctl -D "$PGDATA" -o "$arguments" -w -t 600 start
}

make_user_database() {
	local found
	found=$(POSTGRES_DB=postgres docker_process_sql -v db="$POSTGRES_DB" --tuples-only --no-align <<- 'SQL'
		SELECT 1 FROM pg_database WHERE datname = :'db'
	SQL
	)
	[ -n "$found" ] || POSTGRES_DB=postgres docker_process_sql -v db="$POSTGRES_DB" <<- 'SQL'
		CREATE DATABASE :"db"
	SQL
}

run_scripts() {
	local files file
	# In the order of the user's language, which bash knows by the bundle's own locales.
	mapfile -t files < <(LOCPATH=$pgbake/bundle/lib/locale bash -c 'shopt -s nullglob; printf "%s\n" "$1"/*' - "$scripts")
	for file in "${files[@]}"; do
		[ -n "$file" ] || continue
		case "$file" in
			*.sh)
				if [ -x "$file" ]; then
					echo "$0: running $file"
					"$file"
				else
					echo "$0: sourcing $file"
					. "$file"
				fi
				;;
			*.sql) echo "$0: running $file"; docker_process_sql -f "$file" ;;
			*.sql.gz) echo "$0: running $file"; gunzip -c "$file" | docker_process_sql ;;
			*.sql.xz) echo "$0: running $file"; xzcat "$file" | docker_process_sql ;;
			*.sql.zst) echo "$0: running $file"; zstd -dc "$file" | docker_process_sql ;;
			*) echo "$0: ignoring $file" ;;
		esac
	done
}

first_start() {
	local left
	left=$(find "$PGDATA" -mindepth 1 -maxdepth 1 ! -name lost+found | head -n 1)
	[ -z "$left" ] || die "error: $PGDATA is not empty and holds no database: there is $left" \
		"Mount an empty directory there, or name another with PGDATA."
	require_password
	make_database "$@"
	start_for_init "$@"
	make_user_database
	run_scripts
	pg_ctl -D "$PGDATA" -m fast -w -t 600 stop
	rmdir "$PGDATA/.pgbake-first-start"
	printf '\nPostgreSQL init process complete; ready for start up.\n\n'
}

serve() {
	if [ -d "$PGDATA/.pgbake-first-start" ]; then
		printf '%s\n' "The first start of this database was interrupted; it begins anew."
		[ -z "$POSTGRES_INITDB_WALDIR" ] || empty "$POSTGRES_INITDB_WALDIR"
		empty "$PGDATA"
	fi
	if [ -s "$PGDATA/PG_VERSION" ]; then
		printf '\nPostgreSQL Database directory appears to contain a database; Skipping initialization\n\n'
	else
		first_start "${@:2}"
	fi
	unset POSTGRES_PASSWORD
	exec "$@"
}

main() {
	if [ $# = 0 ] || [ "${1:0:1}" = - ]; then set -- postgres "$@"; fi
	if [ "$1" != postgres ] || asks_only "${@:2}"; then
		exec "$@"
	fi
	read_environment
	local user
	user=$(id -u)
	make_directories "$user"
	if [ "$user" = 0 ]; then exec gosu postgres "${BASH_SOURCE[0]}" "$@"; fi
	serve "$@"
}

main "$@"
