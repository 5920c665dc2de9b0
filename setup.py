"""What setup.cfg cannot say: the folder ``properties`` is installed as the package ``recbole_hnlm.properties``."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["recbole_hnlm", "recbole_hnlm.*"]), "recbole_hnlm.properties"],
    package_dir={"recbole_hnlm.properties": "properties"},
)
