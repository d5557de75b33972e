"""What a container runs: its command line, script and variables, understood as a `Launch`."""

from ironloom.workload.launch.places import place_of
from ironloom.workload.launch.read import launch_of, launch_of_words, server_launch, text_launch

__all__ = ["launch_of", "launch_of_words", "place_of", "server_launch", "text_launch"]
