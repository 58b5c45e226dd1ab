"""Builders: how a recipe becomes the shell script that a derivation performs in its build root.

Each script unpacks the upstream tarball in ``/build/source``, builds it as an ordinary Debian program
(standard interpreter, no RPATH), installs it with DESTDIR into ``/build/image``, and distributes that tree
over the derivation's outputs. Packages hold Debian's layout, ``usr/...``, and never their own store path.
Phases are told to the engine as Nix's structured log lines, so that both engines show them.

A script has three parts: unpacking, which all share; the builder's own; and the split over outputs. Extensions see
the server as one tree, with its ``pg_config`` first in PATH and in the variable ``pg_config``. Words of a recipe may
name the variables of a script, such as ``$pg_config`` and ``$major``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

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
  case "$src" in
    *.zip)
      python3 -m zipfile -e "$src" /build/zip
      mv /build/zip/*/* /build/source/
      ;;
    *)
      if [ -d "$src" ]; then
        cp -r "$src/." /build/source/
        chmod -R u+w /build/source
      else
        tar -xf "$src" --strip-components=1 --no-same-owner -C /build/source
      fi
      ;;
  esac
  cd "/build/source/${directory-}"
  eval "${prepare-}"
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

"""

_POSTGRESQL_INSTALL = r"""phase install
# One at a time: some of PostgreSQL's install rules make the same directory at once.
command make -s -j1 $directories DESTDIR=/build/image install-world-bin
# From 17 on, tarballs hold no documents that are made.
if [ -e doc/src/sgml/man-stamp ]; then
  command make -s -j1 -C doc/src/sgml $directories DESTDIR=/build/image install-man install-html
fi
command make -s -j1 -C src/test/isolation $directories DESTDIR=/build/image install
rm -r "/build/image/usr/share/postgresql/$major/timezone"
licences "postgresql-$major"

phase split
cd /build/image
shopt -s nullglob
"""

# The server's outputs as one tree, since pg_config finds everything relative to where it lies itself.
_EXTENSION = r"""
unpack
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
"""
_WORDS = r"""eval "makeFlags=(${makeFlags-})" "configureFlags=(${configureFlags-})"
"""

_PGXS = r"""
phase build
flags=(USE_PGXS=1 "PG_CONFIG=$pg_config" "docdir=$tree/usr/share/doc/postgresql-$major-$pname" with_llvm=no)
flags+=("${makeFlags[@]}")
make "${flags[@]}"

phase install
command make -j1 "${flags[@]}" DESTDIR=/build/image install
"""

# For builders of which the server's PGXS does not take care.
_FLAGS = r"""
export CFLAGS="$cflags" CXXFLAGS="$cflags" LDFLAGS="$ldflags"
"""

_MAKE = r"""phase build
make PG_CONFIG=$pg_config "${makeFlags[@]}"

phase install
command make -j1 PG_CONFIG=$pg_config "${makeFlags[@]}" DESTDIR=/build/image install
"""

_CONFIGURE_AUTOTOOLS = r"""phase configure
if [ ! -e configure ]; then
  if [ -e autogen.sh ]; then NOCONFIGURE=1 sh autogen.sh; else autoreconf -fi; fi
fi
./configure --prefix=/usr --libdir=/usr/lib/$triplet --disable-static "${configureFlags[@]}"

"""

_AUTOTOOLS = r"""phase build
make "${makeFlags[@]}"

phase install
command make -j1 "${makeFlags[@]}" DESTDIR=/build/image install
"""

_CONFIGURE_CMAKE = r"""phase configure
cmake -S . -B /build/cmake -G "Unix Makefiles" -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX=/usr \
  -DCMAKE_INSTALL_LIBDIR=lib/$triplet -DCMAKE_SKIP_RPATH=ON -DFETCHCONTENT_FULLY_DISCONNECTED=ON \
  -DPG_CONFIG=$pg_config -DPostgreSQL_CONFIG=$pg_config "${configureFlags[@]}"

"""

_CMAKE = r"""phase build
make -C /build/cmake "${makeFlags[@]}"

phase install
DESTDIR=/build/image command make -j1 -C /build/cmake "${makeFlags[@]}" install
"""

_CONFIGURE_MESON = r"""phase configure
meson setup /build/meson --prefix=/usr --libdir=lib/$triplet --buildtype=plain --wrap-mode=nodownload \
  "${configureFlags[@]}"

"""

_MESON = r"""phase build
cores=${NIX_BUILD_CORES:-1}
ninja -C /build/meson -j"$([ "$cores" = 0 ] && nproc || echo "$cores")"

phase install
DESTDIR=/build/image meson install -C /build/meson --no-rebuild
"""

# Where it is not there, nothing was installed, which the engine says in plain words.
_INSTALLED = r"""
licences "postgresql-$major-$pname"
if [ -d /build/image/build ]; then
  cp -r /build/image$tree/usr /build/image/
  rm -r /build/image/build
fi

phase split
cd /build/image
shopt -s nullglob
"""

# In place of the registry: the crates that the lock pins, each with the hash by which Cargo.lock knows it. Paths of the
# build do not get into what is compiled, nor does rustc's cut of the code depend on the number of cores.
_CARGO = r"""
phase vendor
export CARGO_HOME=/build/cargo CARGO_TARGET_DIR=/build/target CARGO_NET_OFFLINE=true CARGO_TERM_COLOR=never
export CARGO_INCREMENTAL=0 CARGO_PROFILE_RELEASE_DEBUG=false
export RUSTFLAGS="--remap-path-prefix=/build/source=. --remap-path-prefix=/build/vendor=vendor \
--remap-path-prefix=/build/target=target"
case "${MAKEFLAGS-}" in
  *--jobserver*) ;;
  *) export CARGO_BUILD_JOBS=$([ "${NIX_BUILD_CORES:-1}" = 0 ] && nproc || echo "${NIX_BUILD_CORES:-1}") ;;
esac
mkdir -p /build/vendor $CARGO_HOME
for crate in $crates; do
  tar -xf "$crate" --no-same-owner -C /build/vendor
  name=${crate##*/}
  name=${name#*-}
  digest=$(sha256sum "$crate")
  printf '{"files":{},"package":"%s"}' "${digest%% *}" > "/build/vendor/${name%.crate}/.cargo-checksum.json"
done
printf '%s\n' '[source.crates-io]' 'replace-with = "vendor"' '[source.vendor]' 'directory = "/build/vendor"' \
  > $CARGO_HOME/config.toml
"""

# A program that builds run: it is compiled fast rather than well.
_CARGO_TOOL = (
    r"""
unpack
eval "makeFlags=(${makeFlags-})"
"""
    + _CARGO
    + r"""
phase build
export CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off
cargo build --release --frozen --ignore-rust-version "${makeFlags[@]}"

phase install
find $CARGO_TARGET_DIR/release -maxdepth 1 -type f -perm /111 ! -name '*.so' -exec install -Dt /build/image/usr/bin {} +
licences "$pname"

phase split
cd /build/image
shopt -s nullglob
"""
)

_CARGO_PGRX = (
    _CARGO
    + r"""
phase configure
# A Cargo.lock may call the registry just so; what cargo itself calls it stands in any lock that it makes.
lock=$PWD
until [ -e "$lock/Cargo.lock" ] || [ "$lock" = / ]; do lock=$(dirname "$lock"); done
lock=$lock/Cargo.lock
if grep -qsx 'source = "registry"' "$lock"; then
  mkdir -p /build/ask/src /build/ask/vendor/a/src
  touch /build/ask/src/lib.rs /build/ask/vendor/a/src/lib.rs
  printf '[package]\nname = "a"\nversion = "0.0.0"\n' > /build/ask/vendor/a/Cargo.toml
  printf '{"files":{},"package":"%064d"}' 0 > /build/ask/vendor/a/.cargo-checksum.json
  printf '[package]\nname = "ask"\nversion = "0.0.0"\n[dependencies]\na = "0.0.0"\n' > /build/ask/Cargo.toml
  (cd /build/ask && cargo generate-lockfile --offline --quiet --config 'source.vendor.directory="/build/ask/vendor"')
  registry=$(grep '^source = ' /build/ask/Cargo.lock)
  sed -i "s|^source = \"registry\"\$|$registry|" "$lock"
fi
export PGRX_HOME=/build/pgrx PGRX_PG_CONFIG_PATH=$pg_config PGRX_BUILD_FLAGS="--frozen --ignore-rust-version"
export RUSTFMT=/usr/bin/true  # bindings need no beauty
PATH=$tools/usr/bin:$PATH
mkdir $PGRX_HOME
printf '[configs]\npg%s = "%s"\n' "$major" "$pg_config" > $PGRX_HOME/config.toml
# Where crates are missing this says so before anything is compiled.
if ! cargo metadata --frozen --format-version 1 > /dev/null; then
  echo "Cargo.lock lacks what Cargo.toml asks for: run 'cargo update --workspace' in the source, then 'pgbake lock'" >&2
  exit 1
fi

phase build
cargo pgrx package --pg-config $pg_config --no-default-features --out-dir /build/image "${makeFlags[@]}"
"""
)

_BUILDERS = {
    "pgxs": _PGXS, "make": _MAKE, "autotools": _AUTOTOOLS, "cmake": _CMAKE, "meson": _MESON, "cargo-pgrx": _CARGO_PGRX,
}  # fmt: skip
#: What comes before that, where makefiles are made first.
_CONFIGURE = {"autotools": _CONFIGURE_AUTOTOOLS, "cmake": _CONFIGURE_CMAKE, "meson": _CONFIGURE_MESON}

#: Builders whose sources name crates in a Cargo.lock.
CARGO = ("cargo", "cargo-pgrx")

#: Debian packages that a builder runs, beside those of every stack.
_TOOLS: dict[str, tuple[str, ...]] = {
    "autotools": ("autoconf", "automake", "libtool"),
    "cmake": ("cmake",),
    "meson": ("meson", "ninja-build"),
}


def stack(recipe: Recipe) -> str:
    """Return the stack of Debian packages that a recipe builds with."""
    return "rust" if recipe.builder in CARGO and recipe.stack == "core" else recipe.stack


def takes_flags(recipe: Recipe) -> bool:
    """Return whether a recipe's builder is told the compiler's flags; PGXS takes the server's, cargo its own."""
    return recipe.builder not in ("postgresql", "pgxs", *CARGO)


def tools(recipe: Recipe) -> tuple[str, ...]:
    """Return the Debian packages that the recipe's builder itself runs."""
    return _TOOLS.get(recipe.builder or "", ())


#: As Debian compiles PostgreSQL, but for -g: debugging symbols would be stripped again.
CFLAGS = (
    "-O2 -fstack-protector-strong -Wformat -Werror=format-security -Wdate-time -D_FORTIFY_SOURCE=2"
    " -ffile-prefix-map=/build/source=."
)
LDFLAGS = "-Wl,-z,relro -Wl,-z,now"


def build_script(recipe: Recipe) -> str:
    """Return the script of a recipe's derivation; it reads the variables of :func:`build_environment`."""
    assert recipe.builder is not None
    if recipe.builder == "postgresql":
        steps = _POSTGRESQL + _POSTGRESQL_INSTALL
    elif recipe.builder == "cargo":
        steps = _CARGO_TOOL
    else:
        steps = _EXTENSION + _configured(recipe) + _BUILDERS[recipe.builder] + _INSTALLED
    split = [f"take ${output} {' '.join(globs)}\n" for output, globs in recipe.outputs.items()]
    return "".join((_PRELUDE, steps, *split, 'mkdir -p "$out"\nmv * "$out/"\nfinish\n'))


def unpacking() -> str:
    """Return shell lines that unpack a recipe's source as its build does; they read the build's variables."""
    return _PRELUDE + "unpack\n"


def configuring(recipe: Recipe) -> str:
    """Return shell lines that make the makefiles of an unpacked source as its build does; none where they are there.

    They read the build's variables, and ``pg_config`` beside these.
    """
    return _PRELUDE + _configured(recipe) if recipe.builder in _CONFIGURE else ""


def _configured(recipe: Recipe) -> str:
    flags = _FLAGS if takes_flags(recipe) else ""
    return _WORDS + flags + _CONFIGURE.get(recipe.builder or "", "")


def build_only(recipe: Recipe) -> str:
    """Return the first part of PostgreSQL's script: its source is built, and nothing installed."""
    assert recipe.builder == "postgresql"
    return _PRELUDE + _POSTGRESQL


def build_environment(recipe: Recipe, major: int, version: str) -> dict[str, str]:
    """Return the variables that a recipe's script reads, but for those that name store paths.

    Store paths come beside these: ``src`` (the tarball), ``postgresqlParts`` (of an extension), ``crates`` and
    ``tools`` (of Rust programs) and the outputs.
    """
    environment = {
        "SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH,
        "major": str(major),
        "pname": recipe.name,
        "version": version,
    }
    if recipe.builder == "cargo":  # serves all major versions
        del environment["major"]
    flags = {"cflags": CFLAGS, "ldflags": LDFLAGS}
    if recipe.builder == "postgresql":
        return environment | flags | {"configureFlags": shlex.join(recipe.configure)}
    if takes_flags(recipe):
        environment |= flags
    words = {
        "makeFlags": _words(recipe.make),
        "configureFlags": _words(recipe.configure),
        "prepare": recipe.prepare,
        "directory": recipe.directory,
    }
    return environment | {name: text for name, text in words.items() if text}


def _words(words: Sequence[str]) -> str:
    """Quote words for the shell that evaluates them, but for the variables that they name."""
    # What is make's own, $(NAME), stays make's.
    return " ".join('"' + re.sub(r'(["\\`]|\$(?![A-Za-z_]))', r"\\\1", word) + '"' for word in words)
