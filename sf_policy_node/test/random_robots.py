"""Random robots as URDF text: joints of every kind, primitives as links, a gripper with a mimic
joint.
"""

import numpy as np

LIMIT = 2.5  # rad; prismatic joints: a tenth of it in m


def random_robot(seed: int, joints: int = 6) -> str:
    """Return a chain of ``joints`` joints on ``base_link``, with a tool and a gripper at its end.

    Its joints are ``joint0``, ``joint1`` and so on. The tool frame is ``tool0``; the gripper is the
    joint ``gripper`` and the joint ``other`` that mimics it.
    """
    random = np.random.default_rng(seed)
    parts = [_link("base_link", random)]
    parent = "base_link"
    for n in range(joints):
        kind = random.choice(["revolute", "revolute", "continuous", "prismatic"])
        parts += [
            _joint(f"joint{n}", str(kind), parent, f"link{n}", random),
            _link(f"link{n}", random),
        ]
        parent = f"link{n}"
    tool = f'<parent link="{parent}"/><child link="tool0"/><origin xyz="0 0 0.1"/>'
    parts += [
        f'<link name="tool0"/><joint name="tool_joint" type="fixed">{tool}</joint>',
        _link("left_finger", random),
        _link("right_finger", random),
        _joint("gripper", "prismatic", parent, "left_finger", random),
        _joint("other", "prismatic", parent, "right_finger", random, mimic="gripper"),
    ]
    return f'<robot name="random{seed}">{"".join(parts)}</robot>'


def names(joints: int = 6) -> list[str]:
    """Return the commanded joints of :func:`random_robot`: the arm's, then the gripper."""
    return [f"joint{n}" for n in range(joints)] + ["gripper"]


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.6f}" for value in values)


def _joint(name, kind, parent, child, random, mimic="") -> str:
    axis = random.normal(size=3)
    reach = LIMIT / 10 if kind == "prismatic" else LIMIT
    follow = f'<mimic joint="{mimic}" multiplier="-0.7" offset="0.02"/>' if mimic else ""
    return (
        f'<joint name="{name}" type="{kind}"><parent link="{parent}"/><child'
        f' link="{child}"/><origin xyz="{_numbers(random.uniform(-0.15, 0.15, 3))}"'
        f' rpy="{_numbers(random.uniform(-3, 3, 3))}"/><axis'
        f' xyz="{_numbers(axis / np.linalg.norm(axis))}"/><limit lower="{-reach}" upper="{reach}"'
        f' velocity="2" effort="10"/>{follow}</joint>'
    )


def _link(name, random) -> str:
    size = random.uniform(0.01, 0.04, 3)
    shape = random.choice(
        [
            f'<box size="{_numbers(2 * size)}"/>',
            f'<cylinder radius="{size[0]:.6f}" length="{4 * size[1]:.6f}"/>',
            f'<sphere radius="{size[0]:.6f}"/>',
        ]
    )
    origin = (
        f'<origin xyz="{_numbers(random.uniform(-0.03, 0.03, 3))}"'
        f' rpy="{_numbers(random.uniform(-3, 3, 3))}"/>'
    )
    return f'<link name="{name}"><collision>{origin}<geometry>{shape}</geometry></collision></link>'
