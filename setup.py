"""
The package is described in setup.cfg. This adds what setup.cfg cannot say: the hyperparameters lie beside the package in a
clone and within it in a wheel. A symbolic link would do the same, but for Windows, where making one needs rights.
"""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithHyperparams(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            folder = Path(self.build_lib) / "sb3_spiking" / "hyperparams"
            folder.mkdir(parents=True, exist_ok=True)
            for file in Path("hyperparams").glob("*.yml"):
                self.copy_file(str(file), str(folder / file.name))


setup(cmdclass={"build_py": BuildWithHyperparams})
