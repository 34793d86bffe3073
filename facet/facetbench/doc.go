// Package facetbench measures facet engines: it makes documents, asks questions of
// them and knows the right answers.
//
// [Documents] makes the same documents on every machine, as a stream, so that ten
// million of them need no more memory than ten. They have the shape of the metadata
// of a large collection of biomedical files: forty keyword facets with two to a
// hundred thousand values, most of which are the same for all files of a project or
// of a bundle, seven numbers, dates and ranges, a name and its words. [NewPlan] takes
// queries from the first documents, so that every collection of at least
// [PlanDocuments] is asked the same. An [Oracle] answers them by looking at each
// document, which needs no index and can hardly be wrong; what an engine answers is
// compared with it whole, by a [Digest].
package facetbench
