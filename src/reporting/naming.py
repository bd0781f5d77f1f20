"""The options that tell rows apart, in the shortest form that can mean nothing else."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from src.reporting.settings import OWN, Key, Settings, Value

_UNKNOWN = "\0"  # no setting has this value


def name_options(rows: Sequence[Settings]) -> list[str]:
    """The differences of rows, each text unlike the others.

    Rows that differ in nothing that both know are told apart by how much is known of them.

    Args:
        rows: settings of rows, each different from the others.
    """
    texts = differences(rows)
    known: dict[str, int] = defaultdict(int)
    for row, text in zip(rows, texts, strict=True):
        known[text] = max(known[text], len(row))
    names: list[str] = []
    for row, text in zip(rows, texts, strict=True):
        fewer = known[text] - len(row)
        name = f"{text} (settings unknown: {fewer})".strip() if fewer else text
        again = 2
        while name in names:
            name = f"{text} (variant {again})".strip()
            again += 1
        names.append(name)
    return names


def differences(rows: Sequence[Settings]) -> list[str]:
    """For each row the settings in which it differs from others, as "key=value key=value".

    A setting that several parts of a net or several stages share is named once. What only some
    rows have is null in the others (an option that was added, a callback), unless those have
    another constructor or none of that stage's settings: then it is named if it differs among the
    rows that have it.
    """
    stages = [{stage for stage, _ in row} for row in rows]
    values = {
        key: _values(key, rows, stages) for key in sorted({key for row in rows for key in row})
    }
    differing = [key for key, those in values.items() if len(set(those) - {_UNKNOWN}) > 1]
    names = _names(differing, values)
    return [
        " ".join(
            f"{name}={_text(value)}"
            for name, key in names.items()
            if (value := values[key][index]) != _UNKNOWN
        )
        for index in range(len(rows))
    ]


def _values(
    key: Key, rows: Sequence[Settings], stages: Sequence[Collection[str]]
) -> tuple[Value, ...]:
    stage, name = key
    parts = name.split(".")
    parents = [(stage, ".".join(parts[:end])) for end in range(1, len(parts))]

    def constructors(row: Settings) -> tuple[Value, ...]:
        return tuple(row.get(parent) for parent in parents)

    having = {constructors(row) for row in rows if key in row}
    return tuple(
        row.get(key, None if stage in known and constructors(row) in having else _UNKNOWN)
        for row, known in zip(rows, stages, strict=True)
    )


def _names(keys: Sequence[Key], values: Mapping[Key, tuple[Value, ...]]) -> dict[str, Key]:
    """The shortest unambiguous name of each setting; settings that go together have one."""
    meant = _meanings(values)
    together = defaultdict(list)
    for key in keys:
        together[key[1].rpartition(".")[2], values[key]].append(key)
    names: dict[str, Key] = {}
    for group in together.values():
        shared = set.intersection(*(set(_candidates(key)) for key in group))
        fitting = [name for name in shared if meant[name] <= set(group)]
        if fitting:
            names[_shortest(fitting)] = group[0]
            continue
        for key in group:
            alone = [name for name in _candidates(key) if meant[name] == {key}]
            names[_shortest(alone) if alone else ": ".join(key)] = key
    return dict(sorted(names.items()))


def _meanings(keys: Iterable[Key]) -> dict[str, set[Key]]:
    """What a name can mean: the run's own settings come before those of stages it started from."""
    meant: dict[str, set[Key]] = {}
    for key in sorted(keys, key=lambda key: key[0] != OWN):
        for name in _candidates(key):
            those = meant.setdefault(name, set())
            if key[0] == OWN or all(stage != OWN for stage, _ in those):
                those.add(key)
    return meant | {name: {(stage, name)} for stage, name in keys if stage == OWN}


def _candidates(key: Key) -> Iterator[str]:
    """The ends of a dotted name, with and without its stage before them."""
    stage, name = key
    parts = [name] if name.startswith("init_from") else name.split(".")
    for start in range(len(parts)):
        end = ".".join(parts[start:])
        yield end
        if stage != OWN:
            yield f"{stage}.{end}"


def _shortest(names: Sequence[str]) -> str:
    return min(names, key=lambda name: (name.count("."), len(name), name))


def _text(value: Value) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value.startswith(("src.", "torch.", "pytorch_lightning.")):
        return value.rpartition(".")[2]  # a constructor
    return str(value)
