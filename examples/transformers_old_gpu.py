#!/usr/bin/env python3
"""An FP8 model on a GPU without FP8 units (or on a CPU), at one byte a parameter: transformers_old_gpu.py MODEL [PROMPT]"""

import sys

import anyfp8.transformers
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

anyfp8.transformers.enable()
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto").to(
    "cuda" if torch.cuda.is_available() else "cpu"
)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
prompt = sys.argv[2] if len(sys.argv) > 2 else "Ge1:1 In the beginning God"
tokens = tokenizer(prompt, return_tensors="pt").to(model.device)
print(tokenizer.decode(model.generate(**tokens, max_new_tokens=64, do_sample=False)[0]))
