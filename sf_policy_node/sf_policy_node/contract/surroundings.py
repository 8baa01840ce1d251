"""Sections of a robot contract about what stands around the arm, on the metal and in simulation."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from sf_policy_node.contract.sections import Finite, FrameName, Name, Positive, Section, Vector3

Margin = Annotated[float, Field(ge=0, le=0.2, allow_inf_nan=False)]


class CollisionBox(Section):
    """A box that stands still, with sides along the axes of base_frame."""

    name: Name
    lower: Vector3 = Field(description="lowest corner [m]")
    upper: Vector3 = Field(description="highest corner [m]")

    @model_validator(mode="after")
    def _ordered(self) -> CollisionBox:
        for axis, low, high in zip("xyz", self.lower, self.upper, strict=True):
            if low >= high:
                raise ValueError(f"lower {axis} ({low}) must be below upper {axis} ({high})")
        return self


class CollisionCheck(Section):
    """Which links may not touch each other or boxes; see doc/collision.md."""

    check: bool = Field(
        True, description="false: motions are not checked, neither for links nor boxes"
    )
    margin: Margin = Field(0.005, description="nearer than this counts as touching [m]")
    boxes: list[CollisionBox] = Field([], description="table, walls, posts")
    allowed: list[Annotated[list[FrameName], Field(min_length=2, max_length=2)]] = Field(
        [], description="pairs of links, or of a link and a box, that may touch"
    )
    capsule_radius: Positive | None = Field(
        None, description="of links without a shape [m]; none: 5 % of the arm's length"
    )

    @model_validator(mode="after")
    def _distinct(self) -> CollisionCheck:
        names = [box.name for box in self.boxes]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"boxes: {twice[0]} is named twice; give every box its own name")
        return self


class CameraMount(Section):
    """Where a camera of the contract is in simulation."""

    frame: FrameName = Field(description="link of the URDF that carries it")
    position: Vector3 = Field(description="in that link's frame [m]")
    look_at: Vector3 = Field(description="a point in that frame [m]")
    up: Vector3 = Field(
        [0.0, 0.0, 1.0], description="direction in that frame that is up in the image"
    )
    field_of_view: Annotated[float, Field(gt=5, lt=170)] = Field(
        55.0, description="vertical [degrees]"
    )

    @model_validator(mode="after")
    def _looks(self) -> CameraMount:
        way = [b - a for a, b in zip(self.position, self.look_at, strict=True)]
        (a, b, c), (x, y, z) = way, self.up
        across = (b * z - c * y) ** 2 + (c * x - a * z) ** 2 + (a * y - b * x) ** 2
        if across < 1e-12:
            raise ValueError(
                "look_at and up: look_at is the position, or up is along the view; change one"
            )
        return self


class Simulation(Section):
    """What sim:=true cannot know from contract and URDF."""

    table_height: Finite | None = Field(None, description="top of the table in base_frame [m]")
    cameras: dict[Name, CameraMount] = Field({}, description="by the camera's name")
