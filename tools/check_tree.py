#!/usr/bin/env python3
"""Holds the tree to its rules: who may include whom, how long a file may be, which names there are.

check_tree.py [ROOT] prints one line for each broken rule and ends with 1, or says nothing and ends with 0.
"""
import re
import sys
from collections import defaultdict
from pathlib import Path

# Under anyfp8/: a folder may include itself and those before it.
FOLDERS = ["base", "device", "checkpoint", "scheme", "kernels", "linear", "parallel", "model"]
# Outside: these may include anything of the library but not each other; tests/ may include cli/, which it tests.
PROGRAMS = ["cli", "tests", "bench", "examples"]

SOURCE = {".cpp", ".h", ".c", ".cu", ".cuh", ".inc"}
TEXT = SOURCE | {".py", ".cmake", ".txt", ".md", ".sh", ".json", ".in", ".map", ""}
SKIPPED = {".git", "models", "dist", "__pycache__"}

MAX_FILE_LINES = 600
MAX_README_LINES = 150
MAX_MODEL_LINES = 2500

# Names that a folder's convention repeats.
REPEATED = {"CMakeLists.txt", "README.md"}

# A home folder or another path that exists on one machine only.
MACHINE_PATH = re.compile(r"""(?<![\w.$}/])/(?:home|root|Users|work|mnt|tmp/team)/[\w.-]+""")


def tree_files(root):
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if SKIPPED.intersection(parts) or parts[0].startswith("build") or not path.is_file():
            continue
        yield path.relative_to(root)


def folder_of(path):
    """('anyfp8', 'scheme') -> scheme; a file directly in anyfp8/ (the C ABI) stands above every folder but model."""
    parts = Path(path).parts
    if len(parts) > 2 and parts[0] == "anyfp8":
        return parts[1]
    return None


def check_includes(path, lines, complain):
    here = folder_of(path)
    if path.parts[0] == "anyfp8" and here is not None and here not in FOLDERS:
        complain(path, 1, f"anyfp8/{here}/ is not in the order of folders: {' '.join(FOLDERS)}")
        return
    for number, line in enumerate(lines, 1):
        match = re.match(r'\s*#\s*include\s*["<](anyfp8/[^">]+|cli/[^">]+|[^">]+(?="))[">]', line)
        if not match:
            continue
        target = match.group(1)
        there = folder_of(target)
        if here is not None:
            if not target.startswith("anyfp8/"):
                complain(path, number, f'"{target}" is included without its path from the root')
            elif there is None:
                complain(path, number, f"{here}/ may not include {target}, which stands above it")
            elif there in FOLDERS and FOLDERS.index(there) > FOLDERS.index(here):
                complain(path, number, f"{here}/ may not include {there}/, which comes after it")
        elif path.parts[0] == "anyfp8" and there == "model":
            complain(path, number, "the library does not include the runner")
        elif path.parts[0] in PROGRAMS:
            first = Path(target).parts[0]
            if first in PROGRAMS and first != path.parts[0] and (path.parts[0], first) != ("tests", "cli"):
                complain(path, number, f"{path.parts[0]}/ may not include {first}/")


def check_list(root, files, folder, list_name, macro, marker, complain):
    """The folders under anyfp8/<folder>/ that hold a file `marker` says yes to are the lines of the list."""
    list_path = Path("anyfp8", folder, list_name)
    if list_path not in files:
        complain(list_path, 1, "the list is missing")
        return
    listed = re.findall(rf"^\s*{macro}\((\w+)\)", (root / list_path).read_text(), re.M)
    present = {p.parts[2] for p in files if p.parts[:2] == ("anyfp8", folder) and len(p.parts) > 3 and marker(p.parts[2])}
    for name in sorted(set(listed) - present):
        complain(list_path, 1, f"{name} is listed, but there is no folder anyfp8/{folder}/{name}/")
    for name in sorted(present - set(listed)):
        complain(list_path, 1, f"the folder anyfp8/{folder}/{name}/ is not listed")
    for name in sorted({n for n in listed if listed.count(n) > 1}):
        complain(list_path, 1, f"{name} is listed twice")


def check_tree(root):
    found = []

    def complain(path, line, text):
        found.append(f"{path}:{line}: {text}")

    files = set(tree_files(root))
    by_name = defaultdict(list)
    model_lines = 0
    for path in sorted(files):
        by_name[path.name].append(path)
        if path.suffix not in TEXT:
            continue
        try:
            lines = (root / path).read_text().splitlines()
        except UnicodeDecodeError:
            continue  # data without a suffix, such as a fuzzer's corpus
        if path.suffix in SOURCE:
            check_includes(path, lines, complain)
            if folder_of(path) == "model" and not path.name.endswith("_test.cpp"):
                model_lines += len(lines)
        if path.suffix in SOURCE | {".py"} and len(lines) > MAX_FILE_LINES:
            complain(path, len(lines), f"{len(lines)} lines; a file has at most {MAX_FILE_LINES}")
        if str(path) == "README.md" and len(lines) > MAX_README_LINES:
            complain(path, len(lines), f"{len(lines)} lines; the README has at most {MAX_README_LINES}")
        for number, line in enumerate(lines, 1):
            if match := MACHINE_PATH.search(line):
                complain(path, number, f"{match.group()} is a path of one machine")
    if model_lines > MAX_MODEL_LINES:
        complain("anyfp8/model", 1, f"{model_lines} lines without tests; the runner has at most {MAX_MODEL_LINES}")
    for name, paths in sorted(by_name.items()):
        if len(paths) > 1 and name not in REPEATED and paths[0].suffix in SOURCE | {".py"}:
            complain(paths[1], 1, f"the name is taken by {paths[0]}; file names are unique in the tree")

    check_list(root, files, "kernels", "kernel_list.inc", "ANYFP8_KERNEL", lambda name: name != "common", complain)
    check_list(root, files, "scheme", "format_list.inc", "ANYFP8_FORMAT", lambda name: True, complain)
    return found


if __name__ == "__main__":
    problems = check_tree(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent).resolve())
    for problem in problems:
        print(problem)
    sys.exit(1 if problems else 0)
