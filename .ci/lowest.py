"""Print pip's constraints for the lowest versions of what the package needs that pyproject.toml allows.

``python .ci/lowest.py NAME==VERSION …`` takes these in place of the bounds of the same names.
``python .ci/lowest.py --frameworks`` prints those of the agent frameworks alone.
"""

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
needed = [*project["dependencies"], *extras["cli"], *extras["motor"], *extras["uvloop"]]
if sys.argv[1:] == ["--frameworks"]:
    sys.argv[1:] = []
    (frameworks,) = extras["frameworks"]
    needed = [each for name in re.findall(r"[\[,]([\w-]+)", frameworks) for each in extras[name]]
lowest = {}
for requirement in needed:
    name, version = re.match(r"([\w.-]+)(?:\[\w+\])?>=([\w.]+)", requirement).groups()
    lowest[name] = version
lowest |= dict(argument.split("==") for argument in sys.argv[1:])
for name, version in lowest.items():
    print(f"{name}=={version}")
