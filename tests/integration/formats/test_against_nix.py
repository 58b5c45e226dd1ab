"""Derivations beside real Nix: the same ones stated to both, who must make the same bytes and paths of them."""

from __future__ import annotations

import hashlib
import json
import random
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from pgbake.formats import storepath
from pgbake.formats.derivation import Derivation, Output, hash_modulo, with_outputs
from pgbake.formats.storepath import Method, StorePath
from tests.oracle import Oracle, TextFile

pytestmark = pytest.mark.integration

HEX = {algorithm: hashlib.new(algorithm, b"hello\n").hexdigest() for algorithm in ("md5", "sha1", "sha256", "sha512")}


@dataclass(frozen=True)
class Spec:
    """A derivation as a user of Nix would state it; ``uses`` holds positions in the list of all specs.

    :param sources: names and contents of text files among its inputs.
    """

    name: str
    outputs: tuple[str, ...] = ()
    system: str = "x86_64-linux"
    builder: str = "/bin/sh"
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    uses: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    fixed: tuple[Method, str] | None = None
    structured: bool = False


ODD = "quote \" backslash \\ newline \n return \r tab \t dollar $ ${x} '' é \udcff\udcfe\x01\x7f"

TABLE: dict[str, list[Spec]] = {
    "plain": [Spec("plain")],
    "arguments": [Spec("arguments", args=("-c", "", ODD, "b", "a"))],
    "another system": [Spec("a-1.0+b_c?d=e", system="aarch64-linux", builder="/usr/bin/env")],
    "several outputs": [Spec("several", outputs=("out", "dev", "doc"))],
    "no output named out": [Spec("several", outputs=("lib", "dev"))],
    "odd environment": [Spec("odd", env={"a": ODD, "b c": "", "é\udcff": "x", 'k"\\\n': "y", "_": " "})],
    "odd keys in order": [Spec("odd", env={"\udcff": "", "\ue000": "", "k!": "", 'k"': "", "k#": "", "k": ""})],
    "structured attributes": [
        Spec("json", outputs=("out", "dev"), env={"a": 'é "x" \\ \n\t', "nested": "{}"}, structured=True)
    ],
    "structured with inputs": [Spec("dep"), Spec("json", uses={0: ("out",)}, structured=True)],
    "sources": [Spec("sources", sources={"one.txt": "1", "two.txt": ODD.encode(errors="ignore").decode()})],
    "inputs": [Spec("a"), Spec("b"), Spec("user", uses={0: ("out",), 1: ("out",)})],
    "some outputs of an input": [
        Spec("lib", outputs=("out", "dev", "doc")),
        Spec("user", uses={0: ("dev", "doc")}),
    ],
    "diamond": [
        Spec("base"),
        Spec("left", uses={0: ("out",)}),
        Spec("right", uses={0: ("out",)}),
        Spec("top", uses={0: ("out",), 1: ("out",), 2: ("out",)}),
    ],
    "a fixed input below a fixed output": [
        Spec("src.tar.gz", fixed=("flat", "sha256")),
        Spec("unpacked", fixed=("recursive", "sha256"), uses={0: ("out",)}),
        Spec("user", uses={1: ("out",)}),
        Spec("user-of-user", uses={2: ("out",), 0: ("out",)}),
    ],
    **{
        f"fixed {method} {algorithm}": [
            Spec("src", fixed=(method, algorithm), env={"url": ODD}),
            Spec("user", uses={0: ("out",)}, outputs=("out", "dev")),
        ]
        for method in ("flat", "recursive")
        for algorithm in HEX
    },
}


def random_specs(seed: int) -> list[Spec]:
    """Return a graph of derivations that nobody thought of."""
    rng = random.Random(seed)
    characters = string.printable + "é€\udc80\udcff"
    names = string.ascii_letters + string.digits + "+-_?="

    def text() -> str:
        return "".join(rng.choices(characters, k=rng.randrange(20)))

    specs: list[Spec] = []
    for number in range(12):
        used = rng.sample(range(number), min(number, rng.randrange(4)))
        fixed = number % 5 == 1
        specs.append(
            Spec(
                # The number keeps two fixed outputs from being the same, which Nix's versions disagree about.
                f"{number}{''.join(rng.choices(names, k=rng.randrange(1, 30)))}",
                outputs=() if fixed else tuple(rng.sample(["out", "dev", "doc", "a", "z.b"], rng.randrange(4))),
                args=tuple(text() for _ in range(rng.randrange(3))),
                env={f"{text()}{key}": text() for key in range(rng.randrange(5))},
                uses={at: tuple(rng.sample(outs := outputs_of(specs[at]), rng.randint(1, len(outs)))) for at in used},
                sources={f"s{number}": "text"} if rng.random() < 0.3 else {},
                fixed=(rng.choice(["flat", "recursive"]), rng.choice([*HEX])) if fixed else None,
            )
        )
    return specs


def outputs_of(spec: Spec) -> tuple[str, ...]:
    return spec.outputs or ("out",)


def nix_string(value: str) -> str:
    for old, new in (("\\", "\\\\"), ('"', '\\"'), ("${", "\\${"), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        value = value.replace(old, new)
    return f'"{value}"'


def nix_expression(specs: Sequence[Spec]) -> bytes:
    """Return Nix's expression for a list of all the derivations."""
    lines = ["let"]
    for number, spec in enumerate(specs):
        attributes = {
            "name": nix_string(spec.name),
            "system": nix_string(spec.system),
            "builder": nix_string(spec.builder),
            "args": f"[ {' '.join(map(nix_string, spec.args))} ]",
            **{nix_string(key): nix_string(value) for key, value in spec.env.items()},
        }
        if spec.outputs:
            attributes["outputs"] = f"[ {' '.join(map(nix_string, spec.outputs))} ]"
        for at, outputs in spec.uses.items():
            attributes[f"use{at}"] = '"' + " ".join(f"${{d{at}.{nix_string(name)}}}" for name in outputs) + '"'
        for name, contents in spec.sources.items():
            attributes[nix_string(name)] = f"builtins.toFile {nix_string(name)} {nix_string(contents)}"
        if spec.fixed:
            method, algorithm = spec.fixed
            attributes |= {
                "outputHashMode": nix_string(method),
                "outputHashAlgo": nix_string(algorithm),
                "outputHash": nix_string(HEX[algorithm]),
            }
        if spec.structured:
            attributes["__structuredAttrs"] = "true"
        body = " ".join(f"{key} = {value};" for key, value in attributes.items())
        lines.append(f"d{number} = derivation {{ {body} }};")
    lines.append(f"in [ {' '.join(f'd{number}' for number in range(len(specs)))} ]")
    return "\n".join(lines).encode(errors="surrogateescape")


def source(name: str, contents: bytes) -> StorePath:
    return storepath.text_path(name, hashlib.sha256(contents).digest())


def our_derivations(specs: Sequence[Spec]) -> list[Derivation]:
    """Return the same derivations, made by pgbake alone."""
    known: dict[StorePath, bytes] = {}
    drvs: list[Derivation] = []
    for spec in specs:
        env = {"name": spec.name, "system": spec.system, "builder": spec.builder, **spec.env}
        if spec.outputs:
            env["outputs"] = " ".join(spec.outputs)
        for at, outputs in spec.uses.items():
            env[f"use{at}"] = " ".join(drvs[at].outputs[name].path for name in outputs)
        sources = {name: source(name, contents.encode()) for name, contents in spec.sources.items()}
        env |= {name: str(path) for name, path in sources.items()}
        outputs_map = {name: Output("") for name in outputs_of(spec)}
        if spec.fixed:
            method, algorithm = spec.fixed
            env |= {"outputHashMode": method, "outputHashAlgo": algorithm, "outputHash": HEX[algorithm]}
            outputs_map = {"out": Output("", f"{'r:' * (method == 'recursive')}{algorithm}", HEX[algorithm])}
        if spec.structured:
            attributes = {**env, "outputs": list(spec.outputs)} if spec.outputs else env
            env = {"__json": json.dumps(attributes, sort_keys=True, separators=(",", ":"), ensure_ascii=False)}
        drv = Derivation(
            spec.name,
            outputs_map,
            {drvs[at].path: frozenset(names) for at, names in spec.uses.items()},
            frozenset(sources.values()),
            spec.system,
            spec.builder,
            spec.args,
            env,
        )
        drv = with_outputs(drv, known.__getitem__)
        known[drv.path] = hash_modulo(drv, known.__getitem__)
        drvs.append(drv)
    return drvs


GRAPHS = {**TABLE, **{f"random {seed}": random_specs(seed) for seed in range(8)}}


@pytest.mark.parametrize("specs", GRAPHS.values(), ids=GRAPHS)
def test_nix_instantiates_the_same_derivations(shared_oracle: Oracle, specs: list[Spec]) -> None:
    shared_oracle.tmp("expression.nix").write_bytes(nix_expression(specs))
    said = shared_oracle.run("nix-instantiate", "/tmp/expression.nix").stdout.decode()
    paths = [line.partition("!")[0] for line in said.splitlines()]  # after the "!" stands an output
    ours = our_derivations(specs)
    for drv, path in zip(ours, paths, strict=True):
        theirs = shared_oracle.on_disk(path).read_bytes()
        assert drv.to_aterm() == theirs
        assert str(drv.path) == path
        assert Derivation.parse(theirs, drv.name) == drv


@pytest.mark.parametrize("specs", GRAPHS.values(), ids=GRAPHS)
def test_nix_imports_our_derivations(oracle: Oracle, specs: list[Spec]) -> None:
    sources = {name: text.encode() for spec in specs for name, text in spec.sources.items()}
    drvs = our_derivations(specs)
    oracle.import_files([TextFile(source(name, text), text) for name, text in sources.items()])
    oracle.import_files(map(TextFile.of, drvs))
    for drv in drvs:
        listed = oracle.run("nix-store", "--query", "--outputs", str(drv.path)).stdout.decode().split()
        assert sorted(listed) == sorted(output.path for output in drv.outputs.values())


@pytest.mark.parametrize("case", ["plain", "several outputs", "fixed flat sha1", "fixed recursive sha256"])
def test_nix_refuses_a_derivation_with_another_path(oracle: Oracle, case: str) -> None:
    """Without this the test of imports would show nothing."""
    drv = our_derivations(TABLE[case])[0]
    wrong = f"/nix/store/{'0' * 32}-{drv.name}"
    outputs = {**drv.outputs, "out": replace(drv.outputs["out"], path=wrong)}
    damaged = replace(drv, outputs=outputs, env={**drv.env, "out": wrong})
    with pytest.raises(AssertionError, match=f"should be '{drv.outputs['out'].path}'"):
        oracle.import_files([TextFile.of(damaged)])
