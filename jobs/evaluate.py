"""x"""
EXAMPLE=""
def add_arguments(p): pass
