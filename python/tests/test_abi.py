"""What the package says of the C ABI is what c_api.h says."""

import ctypes
import re

import pytest
from anyfp8 import _arrays, _library, _plan
from conftest import ROOT

HEADER = (ROOT / "anyfp8" / "c_api.h").read_text()
NUMBERS = {name: int(value) for name, value in re.findall(r"^  ANYFP8_(\w+) = (\d+),", HEADER, re.M)}


def struct_members(name):
    """[(C type, member)] of a struct of the header."""
    body = re.search(rf"typedef struct {name} {{(.*?)}} {name};", HEADER, re.S).group(1)
    members = []
    for line in re.sub(r"//.*", "", body).split(";"):
        if declared := re.fullmatch(r"\s*(?:const )?(\w+)([\s*]|const)+(\w[\w, ]*)\s*", line):
            pointers = line.count("*")
            members += [(declared.group(1) + "*" * pointers, each.strip()) for each in declared.group(3).split(",")]
    return members


@pytest.mark.parametrize(
    "struct, name",
    [
        (_library.Layer, "anyfp8_layer"),
        (_library.LinearOptions, "anyfp8_linear_options"),
        (_library.ParallelOptions, "anyfp8_parallel_options"),
    ],
)
def test_structs_are_those_of_the_header(struct, name):
    """Up to members that a later header adds, for which a shorter struct stands for zero."""
    types = {"size_t": "c_ulong", "int64_t": "c_long", "int32_t": "c_int", "float": "c_float", "char*": "c_char_p"}
    types["char**"] = "LP_c_char_p"
    declared = [(types[kind], member) for kind, member in struct_members(name)]
    assert [(kind.__name__, member) for member, kind in struct._fields_] == declared[: len(struct._fields_)]


def test_numbers_are_those_of_the_header():
    assert {name.upper(): code for name, code in _arrays.CODES.items()} == {
        name: NUMBERS[name] for name in ("F64", "F32", "F16", "BF16", "E4M3", "E5M2", "E8M0")
    }
    for name, code in _plan.POLICIES.items():
        assert NUMBERS[f"POLICY_{name.upper()}"] == code, name
    assert NUMBERS["NOT_FOUND"] == _library.NOT_FOUND
    errors = [
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "INVALID_FILE",
        "UNSUPPORTED",
        "IO",
        "CUDA_ERROR",
        "INTERNAL",
        "OUT_OF_MEMORY",
    ]
    assert sorted(_library._EXCEPTIONS) == sorted(NUMBERS[name] for name in errors)
    assert f"#define ANYFP8_ABI_VERSION {_library.ABI_VERSION}\n" in HEADER


def test_functions_take_what_the_header_says():
    kinds = {"int": ctypes.c_int, "int32_t": ctypes.c_int32, "int64_t": ctypes.c_int64, "size_t": ctypes.c_size_t}
    kinds["anyfp8_lost_callback"] = _library.LOST_CALLBACK
    for name, arguments in _library._FUNCTIONS.items():
        declared = re.search(rf"^ANYFP8_API int anyfp8_{name}\(([^)]*)\)", HEADER, re.M)
        assert declared, name
        parameters = [parameter.strip() for parameter in declared.group(1).split(",")]
        assert len(parameters) == len(arguments), name
        for parameter, argument in zip(parameters, arguments):
            kind = parameter.split()[0]
            if "*" not in parameter:
                assert kinds[kind] is argument, (name, parameter)
            else:
                assert argument not in kinds.values(), (name, parameter)
