from setuptools import find_packages, setup

setup(
    name="sf_policy_node",
    version="0.1.0",
    description="Run time: observations in, action chunks out, chunks into commands",
    license="Apache-2.0",
    maintainer="The sf_ros maintainers",
    maintainer_email="maintainers@sf-ros.example.org",
    packages=find_packages(include=["sf_policy_node", "sf_policy_node.*"]),
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/sf_policy_node"]),
        ("share/sf_policy_node", ["package.xml", "requirements.txt", "LICENSE"]),
    ],
    # `colcon test` runs pytest only if it is listed here.
    extras_require={"test": ["pytest", "pytest-timeout", "hypothesis"]},
    entry_points={
        "console_scripts": [
            "policy_node = sf_policy_node.programs:policy_node",
            "chunk_executor = sf_policy_node.programs:chunk_executor",
            "serve = sf_policy_node.programs:serve",
        ]
    },
)
