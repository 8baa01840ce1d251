"""Declares and checks the parameters of a managed node: type, range, and when they may be set."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter

_AT_CONFIGURE = "read when the node is configured; refused until it is cleaned up"


@dataclass(frozen=True)
class Declared:
    """A declared parameter.

    Attributes:
        value_type: bool, int, float or str.
        low, high: the range; None: unlimited.
        choices: the allowed values; empty: any.
        live: it may be set at any time.
    """

    name: str
    value_type: type
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    live: bool

    def fault(self, value: object) -> str:
        """Return what is wrong with a value; empty when nothing is."""
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits = number if self.value_type is float else type(value) is self.value_type
        if not fits:
            words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
            return f"{self.name}: {value!r} is not {words[self.value_type]}"
        if isinstance(value, (int, float)):
            if not math.isfinite(value):
                return f"{self.name}: {value} is not finite"
            if self.low is not None and value < self.low:
                return f"{self.name}: {value:g} is below {self.low:g}; give {self._range()}"
            if self.high is not None and value > self.high:
                return f"{self.name}: {value:g} is above {self.high:g}; give {self._range()}"
        if self.choices and value not in self.choices:
            return f"{self.name}: {value!r} is not one of {', '.join(self.choices)}"
        return ""

    def _range(self) -> str:
        return f"{self.low:g} or more" if self.high is None else f"{self.low:g} to {self.high:g}"


class Parameters:
    """Declares the parameters of one node and checks every value that is given."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._declared: dict[str, Declared] = {}
        self._fault = ""  # what is wrong with the last value that was checked
        self.configured = False
        """Whether the node is configured: only live parameters may be set then."""
        node.add_on_set_parameters_callback(self._check)

    def declare(
        self,
        name: str,
        default: bool | int | float | str,
        description: str,
        *,
        low: float | None = None,
        high: float | None = None,
        choices: tuple[str, ...] = (),
        live: bool = False,
        read_only: bool = False,
    ) -> None:
        """Declare a parameter with the type of ``default``. An integer is accepted for a float.

        Args:
            low, high: the range; None: unlimited.
            choices: the allowed values; empty: any.
            live: it may be set at any time, and is read when it is used.
            read_only: it can only be set at the start of the process.

        Raises:
            ValueError: the value set at the start is wrong; one sentence.
        """
        value_type = type(default)
        declared = Declared(name, value_type, low, high, choices, live)
        self._declared[name] = declared
        # Dynamic typing, because rclpy refuses 10 for 10.0 with a traceback. `_check` checks the
        # type instead.
        try:
            self._node.declare_parameter(name, default, ParameterDescriptor(dynamic_typing=True))
        except InvalidParameterValueException as error:
            raise ValueError(self._fault or str(error)) from None
        descriptor = ParameterDescriptor(
            name=name,
            description=description,
            read_only=read_only,
            dynamic_typing=True,
            additional_constraints="" if live or read_only else _AT_CONFIGURE,
        )
        if low is not None or high is not None:
            ends = (low if low is not None else -math.inf, high if high is not None else math.inf)
            self._add_range(descriptor, value_type, ends)
        self._node.set_descriptor(name, descriptor)

    def value(self, name: str) -> Any:
        """Return the value of a parameter; a declared one has the type of its default."""
        value = self._node.get_parameter(name).value
        return self._declared[name].value_type(value) if name in self._declared else value

    @staticmethod
    def _add_range(
        descriptor: ParameterDescriptor, value_type: type, ends: tuple[float, float]
    ) -> None:
        if value_type is int:
            low, high = (int(max(min(end, 2.0**62), -(2.0**62))) for end in ends)
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
        else:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=ends[0], to_value=ends[1])
            ]

    def _check(self, parameters: list[Parameter]) -> SetParametersResult:
        for each in parameters:
            declared = self._declared.get(each.name)
            if declared is None:
                continue
            fault = declared.fault(each.value)
            if not fault and self.configured and not declared.live:
                fault = (
                    f"{each.name} is {_AT_CONFIGURE}: deactivate and clean up the node first, or"
                    " restart it"
                )
            self._fault = fault
            if fault:
                return SetParametersResult(successful=False, reason=fault)
        return SetParametersResult(successful=True)
