"""The gate before a bundle leaves its machine, or is put to use: its checks have passed, or the user says that they
need not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pgbake.cli.app import App
from pgbake.errors import PgbakeError
from pgbake.formats.storepath import StorePath

if TYPE_CHECKING:
    from pgbake.checks.check import Check, Checks
    from pgbake.formats.keys import SecretKey
    from pgbake.formats.statement import SignedStatement, Statement
    from pgbake.trust import Trust

#: Gives the keys to sign with; asked only where one is needed.
Keys = Callable[[], Sequence["SecretKey"]]


@dataclass(frozen=True, slots=True)
class Gate:
    """How it stands with a bundle's checks.

    :param passed: what is to be stated where they have passed here.
    :param kept: a statement that they have passed, by a trusted key, where one is kept.
    :param problem: why neither is so, or will not do.
    :param lacking: names of the project's checks that have not passed.
    """

    path: StorePath
    passed: Statement | None = None
    kept: SignedStatement | None = None
    problem: PgbakeError | None = None
    lacking: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        """In one word, for programs."""
        return "passed" if self.passed else "unchecked" if self.problem else "stated"


def look(app: App, path: StorePath, keys: Keys | None = None, *, own: bool = False) -> Gate:
    """Find out how it stands with the checks of a bundle, which is valid.

    :param keys: that the user signs with: what they have signed before is trusted.
    :param own: a statement must be about the project's own checks, as they are now, where it names any.
    """
    from pgbake.checks.gate import checked, not_covered, unpassed

    problem: PgbakeError | None = None
    lacking: list[Check] = []
    if checks := _checks_of(app, path):
        try:
            return Gate(path, passed=checked(app.store, checks))
        except PgbakeError as error:
            problem = error
        lacking = unpassed(app.store, checks)
    names = tuple(check.name for check in lacking)
    kept = _kept(app, path, keys)
    if isinstance(kept, PgbakeError):
        return Gate(path, problem=problem or kept, lacking=names)
    if not own or (lacking and not not_covered(kept.statement, lacking)):
        problem = None  # results that are there and damaged are a problem all the same
    return Gate(path, kept=kept, problem=problem, lacking=names)


def require_checked(
    app: App,
    path: StorePath,
    verb: str,
    *,
    unchecked: bool = False,
    keys: Keys | None = None,
    own: bool = False,
) -> Gate:
    """Make sure that a bundle's checks have passed: here, or so says a statement of a trusted key that is kept.

    :param verb: what is done with it: "pushed"; the command has an option --unchecked.
    :param unchecked: the user wants it all the same, which is said loudly.
    :param keys: see :func:`look`; ``own`` as well.
    :raises PgbakeError: they have not; what is lacking and what to type is told.
    """
    from pgbake.cli.caches import settings

    gate = look(app, path, keys, own=own)
    if gate.problem is None:
        if gate.lacking:
            app.note(f"note: {_count(gate.lacking)} have not passed here; a statement that is kept says that they have")
        return gate
    if unchecked:
        app.note(f"warning: UNCHECKED: {gate.problem}; {path} is {verb} all the same")
    elif settings(app).trust.demands_checks:
        raise refusal(gate, verb)
    else:
        app.note(f"note: {gate.problem}; [trust] demands no statement that they have")
    return gate


def refusal(gate: Gate, verb: str) -> PgbakeError:
    """Return the error for a bundle whose checks have not passed."""
    problem = gate.problem
    assert problem is not None
    hint = problem.hint or "run `pgbake check`"
    if "--unchecked" not in hint:
        hint = f"{hint}; to have it {verb} as it is: --unchecked"
    return type(problem)(f"{gate.path.name} is not {verb}: {problem}", hint=hint, detail=problem.detail)


def foresee(app: App, paths: Iterable[StorePath], verb: str) -> None:
    """Refuse bundles whose checks have not passed before anything is built for them: they need not be there yet.

    :raises PgbakeError: see :func:`require_checked`.
    """
    from pgbake.checks.gate import tell_unpassed, unpassed
    from pgbake.cli.caches import settings
    from pgbake.errors import BuildError

    for path in paths:
        checks = _checks_of(app, path) if settings(app).trust.demands_checks else None
        if checks and (lacking := unpassed(app.store, checks)) and not app.store.valid([path]):
            problem = BuildError(tell_unpassed(lacking, checks), hint="run `pgbake check`")
            raise refusal(Gate(path, problem=problem), verb)


def sign_passed(app: App, gate: Gate, keys: Keys, *, anew: bool) -> SignedStatement | None:
    """Return the signed statement that a bundle's checks have passed here, and keep it beside the bundle.

    None where nobody has signed it, and there is no key.

    :param anew: sign what is signed already as well: the key may be another.
    """
    from pgbake.store.statements import keep_statement, kept_statements

    assert gate.passed is not None
    payload = gate.passed.sign(()).payload
    kept = kept_statements(app.store, gate.path).get("check")
    was_signed = kept is not None and kept.payload == payload and bool(kept.signatures)
    if was_signed and not anew:
        return kept
    signing = keys()
    if not signing:
        return kept if was_signed else None
    signed = gate.passed.sign(signing)
    return keep_statement(app.store, signed) if app.store.read_only is None else signed


def state_unchecked(app: App, gate: Gate, keys: Keys) -> SignedStatement | None:
    """Return the signed statement that a bundle goes its way unchecked, so that who is refused it sees why.

    It is not kept here. None where there is no key.
    """
    from pgbake.checks.gate import unchecked

    signing = keys()
    if not signing:
        return None
    return unchecked(app.store, gate.path, str(gate.problem), gate.lacking).sign(signing)


def _checks_of(app: App, path: StorePath) -> Checks | None:
    """Return the project's checks, if the path is its bundle."""
    if not app.has_project:
        return None
    try:
        checks = app.checks
    except PgbakeError:  # the path is one that somebody named, and may be of any project and time
        return None
    return checks if checks.bundle.path == path else None


def _kept(app: App, path: StorePath, keys: Keys | None) -> SignedStatement | PgbakeError:
    from pgbake.cache.statements import require_checked as require_kept
    from pgbake.cli.caches import settings
    from pgbake.store.statements import kept_statements
    from pgbake.trust import DEMANDED

    def ask(trust: Trust) -> SignedStatement | PgbakeError:
        try:
            signed = require_kept(app.store, path, trust)
        except PgbakeError as error:
            return error
        assert signed is not None
        return signed

    trust = replace(settings(app).trust, statements=DEMANDED)
    answer = ask(trust)
    if isinstance(answer, PgbakeError) and keys is not None and "check" in kept_statements(app.store, path):
        own = tuple(key.public for key in keys())
        answer = ask(replace(trust, keys=replace(trust.keys, keys=tuple(dict.fromkeys((*trust.keys.keys, *own))))))
    return answer


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} check{'' if len(names) == 1 else 's'}"
