"""A module per form in which data sets are published or exported.

To add a form:

1. Write a module here with `read_NAME(root, split, options) -> Dataset`, and a child of
   `ReaderOptions` for its choices. Its docstring shows the files and says what is unknown.
   `find_file`, `read_json` and others in `datasets/files.py` give the messages for files that are
   missing or damaged. Where files hold the images themselves, build on `packed.py`.
2. Add a line to `READERS` in `datasets/catalog.py`. `trmml data check`, `trmml data convert`,
   `read_named` and the benchmark then know the name.
3. Test it in `tests/datasets/test_NAME.py` on files that the test writes, refusals included.
4. Add its row, with every option, to the table in `docs/data.md`; a test compares the two.
"""
