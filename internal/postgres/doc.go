// Package postgres reads PostgreSQL: it connects within a budget of connections and under one pinned list of
// settings, finds databases and their tables, holds an exported snapshot by the protocol of docs/adr/0005, reads rows
// heap block by heap block, and runs pg_dump and pg_restore without showing them secrets on a command line.
//
// It knows neither the repository nor the configuration file. What it finds is expressed in the types of package
// catalog. It never writes to a database; package restore does, on connections made by ConnectRestore.
package postgres
