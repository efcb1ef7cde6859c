"""A method whose package cannot be imported."""

import a_package_that_is_not_there as missing

Broken = missing.Method
