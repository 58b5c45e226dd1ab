"""Builders: how a recipe becomes the shell script that a derivation performs in its build root.

Each script unpacks the upstream tarball in ``/build/source``, builds it as an ordinary Debian program
(standard interpreter, no RPATH), installs it with DESTDIR into ``/build/image``, and distributes that tree
over the derivation's outputs. Packages hold Debian's layout, ``usr/...``, and never their own store path.
Phases are told to the engine as Nix's structured log lines, so that both engines show them.
"""

from __future__ import annotations

import shlex

from pgbake.recipes.recipe import Recipe

#: What programs that embed a date take for it: the first moment that a zip file can name.
SOURCE_DATE_EPOCH = "315532800"

_PRELUDE = r"""
phase() { printf '@nix {"action":"setPhase","phase":"%s"}\n' "$1" >&2; }

# Parallel as far as the engine allows: by its job server where it has one, else by its number of cores.
make() {
  case "${MAKEFLAGS-}" in
    *--jobserver*) command make "$@" ;;
    *) command make -j"$([ "${NIX_BUILD_CORES:-1}" = 0 ] && nproc || echo "${NIX_BUILD_CORES:-1}")" "$@" ;;
  esac
}

unpack() {
  phase unpack
  mkdir -p /build/source
  tar -xf "$src" --strip-components=1 --no-same-owner -C /build/source
  cd /build/source
}

# Moves files of the installed tree into an output, keeping their place in it.
take() {
  local output=$1 file
  shift
  for file in "$@"; do
    mkdir -p "$output/$(dirname "$file")"
    mv "$file" "$output/$file"
  done
}

# Prints, each ended by NUL, the files below a directory that the loader may be given.
elf_files() {
  local file magic
  find "$1" -type f \( -perm /111 -o -name '*.so*' \) -print0 | while IFS= read -rd '' file; do
    IFS= read -rn4 magic < "$file" || true
    if [ "$magic" = $'\x7fELF' ]; then printf '%s\0' "$file"; fi
  done
}

# Strips what no run needs, and drops libtool's files, which only name paths of the build.
finish() {
  phase finish
  local output
  for output in $outputs; do
    output=${!output}
    mkdir -p "$output"
    find "$output" -name '*.la' -delete
    elf_files "$output" | xargs -0r strip --strip-unneeded
    find "$output" -type f -name '*.a' -print0 | xargs -0r strip --strip-debug --enable-deterministic-archives
    find "$output" -mindepth 1 -depth -type d -empty -delete
  done
}

licences() {
  local file
  mkdir -p "/build/image/usr/share/doc/$1"
  for file in LICENSE* LICENCE* COPYING* COPYRIGHT*; do
    if [ -f "$file" ]; then cp "$file" "/build/image/usr/share/doc/$1/"; fi
  done
}
"""

# Debian's directories, side by side for several majors. Two of them are no options of configure, but
# variables of its makefiles; the programs learn them all the same, since make writes pg_config_paths.h.
_POSTGRESQL = r"""
unpack
phase configure
lib=/usr/lib/postgresql/$major
./configure \
  --prefix=/usr --mandir=/usr/share/postgresql/$major/man --docdir=/usr/share/doc/postgresql-doc-$major \
  --sysconfdir=/etc/postgresql-common --datarootdir=/usr/share --datadir=/usr/share/postgresql/$major \
  --bindir=$lib/bin --libdir=/usr/lib/$triplet --libexecdir=/usr/lib/postgresql \
  --includedir=/usr/include/postgresql \
  $configureFlags \
  CFLAGS="$cflags" LDFLAGS="$ldflags" PERL=/usr/bin/perl PYTHON=/usr/bin/python3 MKDIR_P="/usr/bin/mkdir -p" \
  TAR=/usr/bin/tar
directories="pkglibdir=$lib/lib pkgincludedir=/usr/include/postgresql/$major"

phase build
make $directories world-bin

phase install
# One at a time: some of PostgreSQL's install rules make the same directory at once.
command make -s -j1 $directories DESTDIR=/build/image install-world-bin
command make -s -j1 -C doc/src/sgml $directories DESTDIR=/build/image install-man install-html
command make -s -j1 -C src/test/isolation $directories DESTDIR=/build/image install
rm -r "/build/image/usr/share/postgresql/$major/timezone"
licences "postgresql-$major"

phase split
cd /build/image
shopt -s nullglob
"""

# The server's outputs as one tree, since pg_config finds everything relative to where it lies itself.
_PGXS = r"""
unpack
phase build
tree=/build/postgresql
mkdir $tree
for part in $postgresqlParts; do
  cp -rs --no-preserve=mode "$part/usr" $tree/
  # Links of the package's own stay as they are: libpq.so, of one part, leads to a file of another.
  (cd "$part" && find usr -type l -print0 | xargs -0r cp -P --remove-destination --parents -t $tree)
done
pg_config=$tree/usr/lib/postgresql/$major/bin/pg_config
cp --remove-destination "$(readlink -f $pg_config)" $pg_config
PATH=$(dirname $pg_config):$PATH
flags=(USE_PGXS=1 "PG_CONFIG=$pg_config" "docdir=$tree/usr/share/doc/postgresql-$major-$pname" with_llvm=no)
eval "flags+=($makeFlags)"
make "${flags[@]}"

phase install
command make -j1 "${flags[@]}" DESTDIR=/build/image install
licences "postgresql-$major-$pname"
# Where it is not there, nothing was installed, which the engine says in plain words.
if [ -d /build/image/build ]; then
  cp -r /build/image$tree/usr /build/image/
  rm -r /build/image/build
fi

phase split
cd /build/image
shopt -s nullglob
"""

#: As Debian compiles PostgreSQL, but for -g: debugging symbols would be stripped again.
CFLAGS = (
    "-O2 -fstack-protector-strong -Wformat -Werror=format-security -Wdate-time -D_FORTIFY_SOURCE=2"
    " -ffile-prefix-map=/build/source=."
)
LDFLAGS = "-Wl,-z,relro -Wl,-z,now"


def build_script(recipe: Recipe) -> str:
    """Return the script of a recipe's derivation; it reads the variables of :func:`build_environment`."""
    steps = {"postgresql": _POSTGRESQL, "pgxs": _PGXS}[recipe.builder]
    split = [f"take ${output} {' '.join(globs)}\n" for output, globs in recipe.outputs.items()]
    return "".join((_PRELUDE, steps, *split, 'mkdir -p "$out"\nmv * "$out/"\nfinish\n'))


def build_environment(recipe: Recipe, major: int, version: str) -> dict[str, str]:
    """Return the variables that a recipe's script reads, but for those that name store paths.

    Store paths come beside these: ``src`` (the tarball), ``postgresqlParts`` (for PGXS) and the outputs.
    """
    environment = {
        "SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH,
        "major": str(major),
        "pname": recipe.name,
        "version": version,
    }
    if recipe.builder == "postgresql":
        return environment | {
            "cflags": CFLAGS,
            "ldflags": LDFLAGS,
            "configureFlags": shlex.join(recipe.configure),
        }
    return environment | {"makeFlags": shlex.join(recipe.make)}
