"""Lets torchrun start the command line: `torchrun -m agent_finetune.cli train ...`."""

import sys

from agent_finetune.cli.app import main

sys.exit(main())
