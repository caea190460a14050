"""Values of Thrift's compact protocol, in which Parquet stores its metadata.

Only requested fields are kept and all others skipped, so memory is used only for what a reader
needs. Arrow's own metadata reader is not used, because some damaged footers crash it.

Source: thrift-compact-protocol.md of apache/thrift.
"""

from __future__ import annotations

from typing import Any, Final

MAX_VALUES: Final = 2_000_000
MAX_DEPTH: Final = 32
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_NUMBERS: Final = (_I16, _I32, _I64)


class Compact:
    """Reads values from bytes.

    Args:
        data: The bytes.
        at: Offset of the first byte to read.

    Raises:
        ValueError: In each method, the bytes are damaged or hold too many values.
        IndexError: They end too early.
    """

    def __init__(self, data: memoryview, at: int = 0) -> None:
        self._data, self.at, self._left = data, at, MAX_VALUES

    def struct(self, wanted: Any, depth: int = 0) -> dict[int, Any]:
        """Read a struct's fields.

        Args:
            wanted: The fields to keep, by number: None for a number or bytes, a dict for a struct,
                a list of one such value for a list.
            depth: Nesting depth of the struct.
        """
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while (head := self._data[self.at]) != 0:
            self.at += 1
            number = number + (head >> 4) if head >> 4 else self._number()
            kind = head & 15
            if kind in (_TRUE, _FALSE):
                continue
            if isinstance(wanted, dict) and number in wanted:
                fields[number] = self._value(kind, wanted[number], depth)
            else:
                self._skip(kind, depth)
        self.at += 1
        return fields

    def _value(self, kind: int, wanted: Any, depth: int) -> Any:
        self._spend(1)
        if kind in _NUMBERS and wanted is None:
            return self._number()
        if kind == _BINARY and wanted is None:
            length = self._varint()
            start, self.at = self.at, self.at + length
            if self.at > len(self._data):
                raise IndexError("text that is not there")
            return bytes(self._data[start : self.at])
        if kind == _STRUCT and isinstance(wanted, dict):
            return self.struct(wanted, depth + 1)
        if kind == _LIST and isinstance(wanted, list):
            size, inner = self._list_head()
            return [self._value(inner, wanted[0], depth + 1) for _ in range(size)]
        raise ValueError(f"a field is of type {kind}")

    def _skip(self, kind: int, depth: int) -> None:
        if kind in _NUMBERS:
            self._varint()
        elif kind in (_TRUE, _FALSE, _BYTE):  # as items of a list
            self.at += 1
        elif kind == _DOUBLE:
            self.at += 8
        elif kind == _BINARY:
            length = self._varint()
            self.at += length
        elif kind == _STRUCT:
            self.struct(None, depth + 1)
        elif kind in (_LIST, _SET):
            size, inner = self._list_head()
            for _ in range(size):
                self._skip(inner, depth + 1)
        elif kind == _MAP:
            size = self._varint()
            self._spend(size)
            kinds = self._data[self.at] if size else 0
            self.at += 1 if size else 0
            for _ in range(size):
                self._skip(kinds >> 4, depth + 1)
                self._skip(kinds & 15, depth + 1)
        else:
            raise ValueError(f"a field is of type {kind}")
        if depth > MAX_DEPTH or self.at > len(self._data):
            raise ValueError("it is cut off, or nested too deeply")

    def _list_head(self) -> tuple[int, int]:
        head = self._data[self.at]
        self.at += 1
        size = head >> 4 if head >> 4 != 15 else self._varint()
        self._spend(size)
        return size, head & 15

    def _spend(self, num_values: int) -> None:
        self._left -= num_values
        if self._left < 0:
            raise ValueError(f"it holds more than {MAX_VALUES:,} values")

    def _number(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("a number has more than 64 bits")
