"""``labkit tools``: build or find the pinned programs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

HELP = "build or find the pinned programs (Kubernetes, etcd, KWOK, Prometheus, descheduler)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("--tools", metavar="DIR", help="folder with tools of your own (default: LABKIT_TOOLS)")
    pages = parser.add_mutually_exclusive_group()
    pages.add_argument("--no-pages", action="store_true", help="leave Prometheus' pages out")
    pages.add_argument("--pages", action="store_true", help="try them again even if that failed within the last day")
    parser.add_argument("--list", action="store_true", help="say which tools there are, and build nothing")
    parser.add_argument("--json", action="store_true", help="the list as JSON")
    parser.add_argument("--remove-build-cache", action="store_true", help="remove what only builds need")


def run(args: argparse.Namespace) -> int:
    """Do it; return the exit code."""
    import time

    from labkit.cluster import toolbuild, tools
    from labkit.errors import ToolError

    if args.remove_build_cache:
        print(f"freed {toolbuild.remove_build_caches() / 2**30:.1f} GiB")
        return 0
    found = tools.locate(args.tools)
    if args.list or args.json:
        return _list(found, as_json=args.json)
    began = time.monotonic()

    def show(step: toolbuild.Step) -> None:
        left = f", {step.total - step.number} left" if step.total > 1 else ""
        counted = f"{step.number} of {step.total}" if step.total > 1 else "1"
        print(f"{time.monotonic() - began:6.0f} s  {step.what} ({counted}{left}; log: {step.log})", flush=True)

    missing = [tool.name for tool in tools.TOOLS if tool.name not in found]
    own = tools.own_folder(args.tools) is not None
    if missing and not (own and all(not tool.runs_lab for tool in tools.TOOLS if tool.name in missing)):
        print(
            f"==> building {len(missing)} tools from Go modules: 5 to 20 minutes on two cores from empty caches, "
            f"{toolbuild.BUILD_GIB} GiB of disk while it lasts; Ctrl-C is safe, the next call goes on",
            flush=True,
        )
        toolbuild.build_tools(show)
        print(f"{time.monotonic() - began:6.0f} s  all tools are built", flush=True)
    if toolbuild.missing_pages() and not args.no_pages and (args.pages or not toolbuild.gave_pages_up()):
        try:
            toolbuild.build_pages(show)
        except ToolError as error:
            print(
                f"labkit: without Prometheus' pages (/query, /targets, /rules), all else works: {error}",
                file=sys.stderr,
            )
    cache_gib = toolbuild.build_cache_bytes() / 2**30
    hint = f"; 'labkit tools --remove-build-cache' frees {cache_gib:.1f} GiB" if cache_gib >= 0.1 else ""
    print(f"tools are ready{hint}")
    return 0


def _list(found: Mapping[str, object], *, as_json: bool) -> int:
    import json

    from labkit.cluster import toolbuild, tools

    pages = None if toolbuild.missing_pages() else str(tools.pages_folder())
    if as_json:
        values = [
            {"name": tool.name, "version": tool.version, "path": str(found[tool.name]) if tool.name in found else None}
            for tool in tools.TOOLS
        ]
        print(json.dumps({"tools": values, "prometheus_pages": pages}, indent=1))
    else:
        for tool in tools.TOOLS:
            print(f"{tool.name:<24} {tool.version:<8} {found.get(tool.name, 'missing')}")
        print(f"{'Prometheus pages':<24} {'':<8} {pages or 'missing'}")
    return 0 if all(tool.name in found for tool in tools.TOOLS if tool.runs_lab) else 1
