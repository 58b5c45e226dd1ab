"""The conventional flavour of an image: PostgreSQL is Debian's, extensions are the packages that `pgbake deb` makes.

All packages, ours included, are installed with stage 1, whose key they are part of; stage 2 adds what the machine
definition says of the cluster. So a changed extension makes both anew, where a bundle would change stage 2 alone.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from pgbake.bundle.receipt import read_receipt
from pgbake.debs.naming import deb_version, language_package
from pgbake.debs.packages import Deb, Packer, file_name
from pgbake.events import Sink
from pgbake.image.kept import use
from pgbake.install.profiles import settings_text
from pgbake.machine.apply import Machine
from pgbake.machine.definition import Cluster, Part, Rendered, render
from pgbake.requirements import chosen_debs


@dataclass(frozen=True)
class Conventional:
    """What such an image has for PostgreSQL.

    :param asked: Debian's packages.
    :param debs: our own, by name.
    :param settings: what the extensions need, as a file of PostgreSQL's configuration.
    """

    cluster: Cluster
    asked: tuple[str, ...]
    debs: Mapping[str, Path]
    settings: str

    @classmethod
    def of(cls, packer: Packer, cluster: Cluster, directory: Path, report: Sink) -> Conventional:
        """Return the flavour of a bundle, which must be in the store, after packing the extensions that are not kept.

        :param cluster: its locale is the bundle's first.
        :param directory: where packages are kept, by what they are made of.
        :raises InputError: nobody brings a library that an extension needs.
        """
        receipt = read_receipt(packer.store.physical(packer.bundle.path))
        own = [deb for deb in packer.packages() if deb.kind == "extension"]
        debs = {}
        for deb in own:
            version = deb_version(deb.upstream, packer.suite, 1)
            into = directory / deb.inputs
            if not (into / file_name(deb, version)).exists():
                packer.pack(deb, version, into, report)
            use(into)
            debs[deb.name] = into / file_name(deb, version)
        locale = receipt.locales[0] if receipt.locales else cluster.locale
        return cls(msgspec.structs.replace(cluster, locale=locale), _asked(packer, own), debs, settings_text(receipt))

    @cached_property
    def wanted(self) -> Rendered:
        """What the machine definition says of it."""
        cluster = self.cluster
        rendered = render([cluster.major], [cluster], cluster.major, "deb")
        settings = Part("file", f"{cluster.conf}/conf.d/00-pgbake.conf", 0o644, content=self.settings.encode())
        return dataclasses.replace(rendered, parts=(*rendered.parts, settings))

    def install(self, root: Path, bench: Path) -> None:
        """Put into a tree with all packages what the machine definition says beside.

        :param bench: a directory beside the tree, for what is not to be in it.
        :raises PgbakeError: something cannot be made.
        """
        machine = Machine(root, bench / "record.json")
        plan = machine.plan(self.wanted, "adopt")
        machine.apply(dataclasses.replace(plan, conflicts=()), self.wanted, (self.cluster,), self.cluster.major)


def _asked(packer: Packer, own: Iterable[Deb]) -> tuple[str, ...]:
    """Return Debian's packages that PostgreSQL, its languages and extensions are, or need."""
    major = packer.major
    names = {deb.name for deb in own}
    needed = {
        re.split(r"[ (|]", word.strip())[0] for deb in own for word in deb.fields["Depends"].split(",") if word.strip()
    }
    languages = {found for name in packer.project.manifest.languages if (found := language_package(name, major))}
    pins = packer.project.lock.systems[packer.system.name]
    return tuple(sorted({f"postgresql-{major}", *languages, *chosen_debs(pins, pins.debs), *needed} - names))
