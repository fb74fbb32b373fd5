"""Examples to rows of one length: cut, packed or padded, once, when a data set is opened.

Everything that changes the number of rows happens here, so that the loader maps one to one and a
batch is a function of the step alone. Rows are dicts of arrays with a leading dimension
(data/batch.py). One file for each schema.
"""
