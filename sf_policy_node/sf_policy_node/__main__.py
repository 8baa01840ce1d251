"""Serve a checkpoint to other programs without ROS: ``python3 -m sf_policy_node serve ...``."""

import sys


def main() -> int:
    """Run a verb; return its exit code."""
    if sys.argv[1:2] != ["serve"]:
        print(
            "usage: python3 -m sf_policy_node serve CHECKPOINT [--host --port --device"
            " --token-file]",
            file=sys.stderr,
        )
        return 2
    from sf_policy_node.vla.remote.serve import main as serve

    return serve(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
