//! Rules of the house, held by tests: purity, sizes, generated files. The tests are in `tests/`; there is no code here.
