"""Prints docs/config.md, the page of all settings.

python -m train.config.reference > docs/config.md
"""

from train.config.settings_page import page

if __name__ == "__main__":
    print(page(), end="")
