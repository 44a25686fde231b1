#!/usr/bin/env python3
"""Breaks each rule of check_tree.py once, in a small tree of its own, and expects the sentence about it."""
import tempfile
import unittest
from pathlib import Path

from check_tree import check_tree

GOOD = {
    "anyfp8/base/dtype.h": "#pragma once\n",
    "anyfp8/kernels/kernel.cpp": '#include "anyfp8/base/dtype.h"\n',
    "anyfp8/kernels/kernel_list.inc": "ANYFP8_KERNEL(cpu_reference)\n",
    "anyfp8/kernels/cpu_reference/cpu_reference.cpp": '#include "anyfp8/kernels/cpu_reference/inner.h"\n',
    "anyfp8/kernels/common/simd.h": "",
    "anyfp8/scheme/format_list.inc": "// dialects\nANYFP8_FORMAT(hf_fp8)\n",
    "anyfp8/scheme/hf_fp8/hf_fp8.cpp": "",
    "anyfp8/model/sampler.cpp": "int x;\n" * 500,
    "anyfp8/c_api.cpp": '#include "anyfp8/linear/linear.h"\n',
    "cli/main.cpp": '#include "anyfp8/model/sampler.h"\n',
    "README.md": "anyfp8\n",
}


class CheckTreeTest(unittest.TestCase):
    def problems(self, changes):
        with tempfile.TemporaryDirectory() as folder:
            for name, text in {**GOOD, **changes}.items():
                if text is not None:
                    path = Path(folder, name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(text)
            return check_tree(Path(folder))

    def expect(self, sentence, files):
        problems = self.problems(files)
        self.assertEqual(len(problems), 1, problems)
        self.assertIn(sentence, problems[0])

    def test_a_good_tree_has_no_problem(self):
        self.assertEqual(self.problems({}), [])

    def test_includes_go_down_the_folders_only(self):
        self.expect("base/ may not include scheme/", files={"anyfp8/base/dtype.h": '#include "anyfp8/scheme/s.h"\n'})
        self.expect("base/ may not include anyfp8/c_api.h", files={"anyfp8/base/dtype.h": '#include "anyfp8/c_api.h"\n'})
        self.expect("does not include the runner", files={"anyfp8/c_api.cpp": '#include "anyfp8/model/s.h"\n'})
        self.expect("without its path", files={"anyfp8/base/dtype.h": '#include "error.h"\n'})
        self.expect("cli/ may not include tests/", files={"cli/main.cpp": '#include "tests/x.h"\n'})
        self.expect("not in the order of folders", files={"anyfp8/utils/x.cpp": ""})

    def test_files_are_short(self):
        self.expect("601 lines", files={"cli/main.cpp": "\n" * 601})
        self.expect("151 lines", files={"README.md": "\n" * 151})
        long = {f"anyfp8/model/part{i}.cpp": "\n" * 500 for i in range(5)}
        self.expect("the runner has at most 2500", files=long)
        self.assertEqual(self.problems({name[:-4] + "_test.cpp": text for name, text in long.items()}), [])

    def test_file_names_are_unique(self):
        self.expect("the name is taken by anyfp8/base/dtype.h", files={"anyfp8/kernels/common/dtype.h": ""})

    def test_lists_are_the_folders(self):
        self.expect("cpu_fast/ is not listed", files={"anyfp8/kernels/cpu_fast/x.cpp": ""})
        self.expect("there is no folder anyfp8/scheme/hf_fp8/", files={"anyfp8/scheme/hf_fp8/hf_fp8.cpp": None})
        self.expect("listed twice", files={"anyfp8/scheme/format_list.inc": "ANYFP8_FORMAT(hf_fp8)\n" * 2})
        self.expect("the list is missing", files={"anyfp8/kernels/kernel_list.inc": None})

    def test_no_path_of_one_machine(self):
        home = "/ho" + "me/someone"  # in two parts, since this file is checked too
        self.expect("is a path of one machine", files={"README.md": f"see {home}/notes\n"})
        self.assertEqual(self.problems({"README.md": "see https://example.org/home/page and ./work/x\n"}), [])


if __name__ == "__main__":
    unittest.main()
