"""Command ``serve``: serve a checkpoint to policy nodes on other machines.

``ros2 run sf_policy_node serve``, or ``python3 -m sf_policy_node serve`` without ROS.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from sf_policy_node.contract import ContractError, load_contract
from sf_policy_node.vla.checkpoint import CheckpointError
from sf_policy_node.vla.remote.policy import TOKEN_VARIABLE


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    arguments = _parser().parse_args(argv)
    from sf_policy_node.vla.policy import Policy  # imports torch, which takes seconds
    from sf_policy_node.vla.remote.server import PolicyServer, ServeError

    try:
        token = _token(arguments.token_file)
        contract = load_contract(arguments.contract) if arguments.contract else None
        policy = Policy.load(arguments.checkpoint, contract=contract, device=arguments.device)
        policy.warm_up()
        server = PolicyServer(policy, policy.contract, arguments.host, arguments.port, token)
    except (CheckpointError, ContractError, ServeError, OSError) as error:
        print(f"serve: {error}", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(
        f"{policy.policy_id} on {policy.device}: openpi://{arguments.host}:{server.port}",
        flush=True,
    )
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sf_policy_node serve",
        description="Serve a checkpoint over openpi's websocket protocol.",
    )
    parser.add_argument("checkpoint", type=Path, help="directory of the trained policy")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; anything but loopback needs a token",
    )
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--contract", type=Path, help="the robot's contract; default the one in the checkpoint"
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        help=f"file with the token that clients must send; default the variable {TOKEN_VARIABLE}",
    )
    return parser


def _token(file: Path | None) -> str:
    token = file.read_text(encoding="utf-8").strip() if file else os.environ.get(TOKEN_VARIABLE, "")
    if file and not token:
        raise OSError(f"--token-file {file}: is empty; write the token into it")
    return token


if __name__ == "__main__":
    sys.exit(main())
