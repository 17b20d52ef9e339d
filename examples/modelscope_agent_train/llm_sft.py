"""Fine-tune a model on agent data. Every flag: python llm_sft.py --help."""

import sys

from modelscope_agent_train.sft import main

if __name__ == "__main__":
    sys.exit(main())
