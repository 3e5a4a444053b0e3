"""Values as TOML writes them."""

from __future__ import annotations

from hakuriver import units


def toml_value(value: object) -> str:
    """A value as TOML writes it: text, numbers, truth values, lists."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(toml_value(item) for item in value)}]"
    escaped = "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08x}" for c in str(value))
    return f'"{escaped}"'


def toml_time(seconds: float) -> str:
    """Seconds as text with a unit, as `"90s"`; as a number where no unit gives just that."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1), ("ms", 0.001)):
        text = f"{round(seconds / length)}{unit}"
        if seconds >= length and units.parse_duration(text) == seconds:
            return toml_value(text)
    return toml_value(seconds)


def toml_size(size: int) -> str:
    """Bytes as text with a unit, as `"4Gi"`; as a number where no unit gives just that."""
    for base, suffix in ((1024, "i"), (1000, "")):
        for power, unit in ((4, "T"), (3, "G"), (2, "M"), (1, "K")):
            if size and size % base**power == 0:
                return toml_value(f"{size // base**power}{unit}{suffix}")
    return toml_value(size)


def toml(table: dict[str, dict[str, object]]) -> str:
    """A configuration of sections and plain values."""
    lines = []
    for section, values in table.items():
        lines += [f"[{section}]", *(f"{key} = {toml_value(value)}" for key, value in values.items()), ""]
    return "\n".join(lines)
