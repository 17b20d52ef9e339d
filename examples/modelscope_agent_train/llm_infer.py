"""Let a trained model answer. Every flag: python llm_infer.py --help."""

import sys

from modelscope_agent_train.infer import main

if __name__ == "__main__":
    sys.exit(main())
