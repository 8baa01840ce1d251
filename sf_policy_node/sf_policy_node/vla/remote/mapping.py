"""Mapping between the robot's contract and the keys, units and gripper values of a policy server.

One YAML file for each policy:

```yaml
# camera of the contract: key in the observation; a dot nests ("images.cam_high")
images: {scene: observation/image, wrist: observation/wrist_image}
image_size: [224, 224]         # absent: as the camera has it
image_layout: hwc              # or chw
state:                         # key: the values in it, in the server's order
  observation/state:
    [joint1, joint2, {name: joint3, unit: deg}, {name: gripper, open: 0.0, closed: 1.0}]
prompt: prompt                 # key of the instruction
actions: actions               # key of the chunk in the reply; empty: the reply itself
space: joint_position          # must be the contract's
step_s: 0.1                    # time step of the server's chunk [s]; must be the contract's
columns:                       # of the server's chunk, in its order
  [joint1, joint2, {name: joint3, unit: deg}, {name: gripper, open: 1.0, closed: -1.0}, ignore]
metadata: {robot: my_arm}      # expected in the server's metadata
```
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sf_policy_node.contract import ActionSpace
from sf_policy_node.vla.preprocessing import Fit

IGNORED = "ignore"
ZERO = "zero"
JOINT = "joint:"  # before the name of a joint that is also the name of another value
Seconds = Annotated[float, Field(gt=0, le=600, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class MappingError(ValueError):
    """The mapping cannot be used; the message names the file, the key and the cure."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(_Strict):
    """One value of the server's state or action; a plain name is short for ``{name: ...}``."""

    name: str = Field(min_length=1)
    unit: Literal["rad", "deg", "m", "mm"] | None = Field(
        None, description="the server's; none: the contract's (rad, m)"
    )
    sign: Literal[1, -1] = Field(1, description="-1: the server's sign is opposite")
    open: Finite | None = Field(
        None, description="of a gripper: the server's value when it is open"
    )
    closed: Finite | None = Field(
        None, description="of a gripper: the server's value when it is closed"
    )

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _gripper(self) -> Column:
        if (self.open is None) != (self.closed is None) or (
            self.open is not None and self.open == self.closed
        ):
            raise ValueError(f"{self.name}: give open and closed, two different values")
        if self.open is not None and (self.unit or self.sign != 1):
            raise ValueError(
                f"{self.name}: open and closed define the scale; leave out unit and sign"
            )
        return self

    @property
    def factor(self) -> float:
        """The server's unit in SI units, with its sign."""
        return self.sign * {"deg": 0.017453292519943295, "mm": 1e-3}.get(self.unit or "", 1.0)


class Mapping(_Strict):
    """Content of a mapping file."""

    images: dict[str, str] = Field(min_length=1)
    image_size: tuple[int, int] | None = None
    image_fit: Fit = "letterbox"
    image_layout: Literal["hwc", "chw"] = "hwc"
    state: dict[str, list[Column]] = {}
    prompt: str = "prompt"
    actions: str = "actions"
    space: ActionSpace
    step_s: Seconds
    columns: list[Column] = Field(min_length=1)
    metadata: dict[str, Any] = {}
    timeout_s: Seconds = 2.0
    first_timeout_s: Seconds = Field(
        120.0, description="of the first reply: a server may compile its model before it"
    )

    @field_validator("image_size")
    @classmethod
    def _positive(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and not all(1 <= side <= 4096 for side in value):
            raise ValueError("must be 1 to 4096 pixels")
        return value


def load_mapping(path: str | Path) -> Mapping:
    """Read a mapping.

    Raises:
        MappingError: the file cannot be read, or keys are wrong; the message lists all of them.
    """
    path = Path(path).expanduser()
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MappingError(
            f"{path}: cannot be read ({error.strerror}); check the path of the mapping"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise MappingError(
            f"{path}: is not YAML ({' '.join(str(error).split())[:200]}); correct it"
        ) from None
    if not isinstance(data, dict):
        raise MappingError(f"{path}: must hold keys and values, see sf_policy_node/doc/remote.md")
    try:
        return Mapping.model_validate(data)
    except ValidationError as error:
        raise MappingError(
            "; ".join(f"{path}: {_explained(dict(item))}" for item in error.errors())
        ) from None


def _explained(item: dict) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "missing":
        return f"{key}: is missing; add it"
    if item["type"] == "extra_forbidden":
        return f"{key}: is not a known key; remove it or fix its spelling"
    return f"{key}: {item['msg'].removeprefix('Value error, ')} (got {item['input']!r})"
