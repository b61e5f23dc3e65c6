"""Print pip's constraints for the lowest versions of what the package needs that pyproject.toml allows.

``python .ci/lowest.py NAME==VERSION …`` takes these in place of the bounds of the same names.
"""

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
lowest = {}
for requirement in [*project["dependencies"], *extras["cli"], *extras["motor"], *extras["uvloop"]]:
    name, version = re.match(r"([\w.-]+)(?:\[\w+\])?>=([\w.]+)", requirement).groups()
    lowest[name] = version
lowest |= dict(argument.split("==") for argument in sys.argv[1:])
for name, version in lowest.items():
    print(f"{name}=={version}")
