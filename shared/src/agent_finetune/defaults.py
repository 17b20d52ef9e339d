"""The kernel's own answers, through the same door as every plugin's and asked last.

Bodies import what they need when called, so that loading this module costs nothing.
"""
