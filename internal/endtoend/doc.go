// Package endtoend holds the proof that hourvault keeps its main promise: what is restored equals what was in the database.
// It consists of tests only.
//
// Every test goes the whole way of the product: package backup reads a real server into a repository, the repository
// is opened anew, and package restore puts the snapshot into another database. PostgreSQL's own pg_dump is the judge:
// what it says of the original and of the restored database must be equal, but for the few lines that cannot be
// (see unequalLines). Properties that pg_dump does not print are compared by query.
//
// The fixture in testdata holds what PostgreSQL offers, by topic. Whatever hourvault turns out to have lost is added
// there first.
package endtoend
