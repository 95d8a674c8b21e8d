"""
Whether what others keep is still there, and what is done when it is not.
"""
