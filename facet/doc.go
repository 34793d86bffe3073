// Package facet is an engine for faceted search over metadata: documents with keywords, numbers, dates, ranges
// and objects; filters on them; exact counts of all terms of all fields, each counted without its own filter; sums; and
// pages in any order at any depth. It is embedded, written in Go alone, and keeps its data in a folder.
//
// # Start
//
// [Open] makes or opens an index in a folder, with a [Schema] that says which fields there are. [Engine.Apply] puts and
// deletes documents in batches, [Engine.Load] takes a sequence of any length, and [Engine.Search] answers a [Query].
// See the examples. [Index] is the contract; besides the engine, there is its
// definition in memory, package facet/memory, for tests. Package facet/facettest is the suite that all pass.
//
// # What is promised
//
// Concurrency: all methods may be called from any number of goroutines. Searches see one state and wait for nobody; each
// search uses as many goroutines as there are processors, if the others leave them. Batches are applied one after
// the other. One process has a folder open for writing; it is locked.
//
// Durability: when Apply or Load returns without an error, the batch survives the end of the process and the loss of power,
// as far as the disk keeps what it says it has synced. When it returns an error, nothing of the batch is there,
// except with [ErrFailed]: then the last step could not be confirmed, the index takes no more, and opening it again shows
// which it is. Either way the batch may be repeated: batches are numbered by the caller, and one that was
// applied is not applied again.
//
// Exactness: counts, totals, sums of integers and cardinalities are exact, at any size.
//
// Errors are of type [*Error] and wrap one of the Err variables, or come from the operating system. A
// document, query or page that is over a limit ([Limits]) or does not fit the schema is refused as a whole.
//
// Damage: every byte is under a checksum. The table of a file is checked when it is opened, the rest when it is used for the first time after that,
// and all of it in the background ([Options.ScrubEvery]) and by [Engine.Verify]. What does not fit is
// refused with [ErrCorrupt] and the name of the file, and never answered from. A file that was damaged can be put back from
// a snapshot, since files never change; or the rest can be opened with [Options.Salvage]; or the index can be
// built again: it is meant to be derived from documents that are kept elsewhere.
// Files are mapped into memory. If one is cut short or its disk fails while it is open, searches that touch it
// return ErrCorrupt; the process lives. That is so on systems where a fault in a mapping can be recovered, which are those
// that Go supports with mmap; on others files are read into memory.
//
// Memory: the index itself is mapped and can be evicted. A search needs some bytes for each 8 documents, and for each term that it counts,
// and gives them to the next one. The values of fields with few are kept, in at most 8 MiB.
// Load needs some hundred megabytes for each processor, and 8 bytes for each document. Merging needs, for
// each processor, some times 4 bytes for each value of one field of all documents that are merged.
//
// # Numbers
//
// Batches are applied in the order of their [Seq], which the caller takes from wherever the documents
// are kept. After a crash the caller asks [Engine.Applied] and goes on behind it.
//
// # Values
//
// A field of a document is a set of values. A document without the field has the set of null alone; null may
// also stand beside values. Filters match when any of the values does, facets count each value of a document
// once, and sorting takes the least. [Field.Matches] is the definition of filters in code.
//
// # How it works
//
// Each batch becomes an immutable file, a segment; segments are merged in the background. A segment has, for
// each field, a sorted dictionary of values, a column with the numbers of each document's values, and for each value its documents.
// Documents that follow each other often are alike, so columns that change together are kept as runs, and counting
// looks at runs instead of documents. For each filter and facet the planner estimates what the ways of reading
// would cost and takes the cheapest; [Engine.Explain] says which and why. FORMAT.md beside the
// source describes the files.
//
// Documents that belong together are best applied next to each other: both counting and space gain from it.
package facet
