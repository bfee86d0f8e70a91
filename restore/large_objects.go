package restore

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/hourvault/hourvault/internal/catalog"
	"github.com/hourvault/hourvault/internal/postgres"
)

const (
	// largeObjectPage is LOBLKSIZE of a server with 8 KiB blocks, in bytes.
	largeObjectPage = 2048
	// largeObjectStatements is how many objects one script creates or describes.
	largeObjectStatements = 500
)

// loadLargeObjects makes every large object with its pages, then gives each its owner, privileges, comment and labels.
// pages may be nil: then all objects are empty.
func (r *run) loadLargeObjects(ctx context.Context, pages *catalog.StoredTable) error {
	var first bool
	for _, err := range r.source.LargeObjects(ctx) {
		if err != nil {
			return fmt.Errorf("read the large objects of the snapshot: %w", err)
		}
		first = true
		break
	}
	if !first && (pages == nil || pages.Rows == 0) {
		if pages != nil {
			r.mutex.Lock()
			r.result.Tables++
			r.mutex.Unlock()
			r.report(true, func(p *Progress) { p.Tables++ })
		}
		return nil
	}
	if size := r.database.BlockSize; size != 0 && size != 4*largeObjectPage {
		return fmt.Errorf("large objects come from a server with a block size of %d bytes, whose pages this version cannot place: restore into such a server with a later version", size)
	}
	return r.inSession(ctx, func(conn *pgx.Conn) error {
		if err := r.createLargeObjects(ctx, conn); err != nil {
			return err
		}
		if pages != nil {
			if err := r.writeLargeObjects(ctx, conn, *pages); err != nil {
				return fmt.Errorf("load large objects: %w", err)
			}
		}
		return r.describeLargeObjects(ctx, conn)
	})
}

func (r *run) createLargeObjects(ctx context.Context, conn *pgx.Conn) error {
	var oids []string
	create := func() error {
		if len(oids) == 0 {
			return nil
		}
		err := execute(ctx, conn, "SELECT pg_catalog.lo_create(o) FROM pg_catalog.unnest('{"+strings.Join(oids, ",")+"}'::pg_catalog.oid[]) o")
		oids = oids[:0]
		if err != nil {
			return fmt.Errorf("create large objects: %w", err)
		}
		return nil
	}
	for object, err := range r.source.LargeObjects(ctx) {
		if err != nil {
			return fmt.Errorf("read the large objects of the snapshot: %w", err)
		}
		r.result.LargeObjects++
		if oids = append(oids, strconv.FormatUint(uint64(object.OID), 10)); len(oids) == largeObjectStatements {
			if err := create(); err != nil {
				return err
			}
		}
	}
	return create()
}

func (r *run) writeLargeObjects(ctx context.Context, conn *pgx.Conn, table catalog.StoredTable) error {
	writer := &largeObjectWriter{ctx: ctx, run: r, conn: conn.PgConn()}
	if err := r.source.Rows(ctx, table, writer); err != nil {
		return err
	}
	if err := writer.finish(); err != nil {
		return err
	}
	if writer.pages != table.Rows {
		return fmt.Errorf("%d pages were loaded of %d", writer.pages, table.Rows)
	}
	r.mutex.Lock()
	r.result.Tables++
	r.result.Rows += table.Rows
	r.result.Bytes += table.Bytes
	r.mutex.Unlock()
	r.report(true, func(p *Progress) { p.Tables++ })
	return nil
}

// largeObjectWriter takes rows of pg_largeobject as COPY text (loid, pageno, data) and writes them with lo_put. Pages
// that follow each other go out together. Memory is bounded by putBytes and batchBytes.
type largeObjectWriter struct {
	ctx   context.Context //nolint:containedctx // io.Writer has no place for it
	run   *run
	conn  *pgconn.PgConn
	pages int64

	line []byte // an unfinished row

	object uint32 // of the pages gathered
	offset int64  // of the first byte gathered
	data   []byte

	batch      *pgconn.Batch
	batchBytes int
	batchCount int
}

const (
	putBytes   = 128 * largeObjectPage
	batchBytes = 1 << 20
	batchCount = 500
	// maxLargeObjectRow bounds the text of one row: two numbers, and two digits for each byte of a page.
	maxLargeObjectRow = 2*largeObjectPage + 64
)

// Write implements io.Writer.
func (w *largeObjectWriter) Write(p []byte) (int, error) {
	written := len(p)
	pages := w.pages
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			w.line = append(w.line, p...)
			break
		}
		row := p[:end]
		if len(w.line) > 0 {
			row = append(w.line, row...)
		}
		if err := w.row(row); err != nil {
			return 0, err
		}
		w.line = w.line[:0]
		p = p[end+1:]
	}
	if len(w.line) > maxLargeObjectRow {
		return 0, errors.New("a row of pg_largeobject is longer than a page allows")
	}
	w.run.report(false, func(progress *Progress) {
		progress.Bytes += int64(written)
		progress.Rows += w.pages - pages
	})
	return written, nil
}

func (w *largeObjectWriter) row(row []byte) error {
	fields := bytes.Split(row, []byte{'\t'})
	if len(fields) != 3 || !bytes.HasPrefix(fields[2], []byte(`\\x`)) {
		return errors.New("a row of pg_largeobject is not understood")
	}
	object, err := strconv.ParseUint(string(fields[0]), 10, 32)
	if err != nil {
		return errors.New("a row of pg_largeobject has no object id")
	}
	page, err := strconv.ParseUint(string(fields[1]), 10, 31)
	if err != nil {
		return errors.New("a row of pg_largeobject has no page number")
	}
	digits := fields[2][3:]
	if len(digits) > 2*largeObjectPage {
		return fmt.Errorf("page %d of large object %d holds more than %d bytes", page, object, largeObjectPage)
	}
	w.pages++
	offset := int64(page) * largeObjectPage
	if len(digits) == 0 {
		if err := w.put(); err != nil {
			return err
		}
		return w.extend(uint32(object), offset)
	}
	if uint32(object) != w.object || offset != w.offset+int64(len(w.data)) || len(w.data)+largeObjectPage > putBytes {
		if err := w.put(); err != nil {
			return err
		}
		w.object, w.offset = uint32(object), offset
	}
	w.data, err = hex.AppendDecode(w.data, digits)
	if err != nil {
		return fmt.Errorf("page %d of large object %d is not in hexadecimal digits", page, object)
	}
	return nil
}

// put sends the gathered pages. Pages that are missing in between stay missing: lo_put makes only those it writes.
func (w *largeObjectWriter) put() error {
	if len(w.data) == 0 {
		return nil
	}
	err := w.send("SELECT pg_catalog.lo_put($1, $2, $3)", len(w.data), w.object, w.offset, w.data)
	w.data = w.data[:0]
	return err
}

// extend makes an object at least offset bytes long: what remains of a last page that was truncated to nothing.
func (w *largeObjectWriter) extend(object uint32, offset int64) error {
	return w.send(`SELECT CASE WHEN pg_catalog.lo_lseek64(fd, 0, 2) < $2 THEN pg_catalog.lo_truncate64(fd, $2) END,
		pg_catalog.lo_close(fd) FROM pg_catalog.lo_open($1, 393216) AS fd`, 0, object, offset, nil)
}

func (w *largeObjectWriter) send(sql string, size int, object uint32, offset int64, data []byte) error {
	if w.batch == nil {
		w.batch, w.batchBytes, w.batchCount = &pgconn.Batch{}, 0, 0
	}
	values := [][]byte{strconv.AppendUint(nil, uint64(object), 10), strconv.AppendInt(nil, offset, 10)}
	types, formats := []uint32{26, 20}, []int16{0, 0} // oid, int8 as text
	if data != nil {
		values, types, formats = append(values, data), append(types, 17), append(formats, 1) // bytea in binary
	}
	w.batch.ExecParams(sql, values, types, formats, nil)
	w.batchBytes, w.batchCount = w.batchBytes+size, w.batchCount+1
	if w.batchBytes >= batchBytes || w.batchCount >= batchCount {
		return w.flush()
	}
	return nil
}

func (w *largeObjectWriter) flush() error {
	if w.batch == nil {
		return nil
	}
	_, err := w.conn.ExecBatch(w.ctx, w.batch).ReadAll()
	w.batch = nil
	return postgres.ServerError(err)
}

// finish sends what is left.
func (w *largeObjectWriter) finish() error {
	if len(w.line) > 0 {
		return errors.New("the last row of pg_largeobject is cut")
	}
	if err := w.put(); err != nil {
		return err
	}
	return w.flush()
}

// describeLargeObjects sets owners, privileges, comments and labels.
func (r *run) describeLargeObjects(ctx context.Context, conn *pgx.Conn) error {
	var statements []string
	flush := func() error {
		if len(statements) == 0 {
			return nil
		}
		err := execute(ctx, conn, transaction(statements)...)
		statements = statements[:0]
		if err != nil {
			return fmt.Errorf("set owners and privileges of large objects: %w", err)
		}
		return nil
	}
	for object, err := range r.source.LargeObjects(ctx) {
		if err != nil {
			return fmt.Errorf("read the large objects of the snapshot: %w", err)
		}
		name := fmt.Sprintf("LARGE OBJECT %d", object.OID)
		if object.Note != nil {
			statements = append(statements, "COMMENT ON "+name+" IS "+postgres.QuoteLiteral(*object.Note))
		}
		for _, label := range object.Labels {
			statements = append(statements, securityLabelSQL(name, label))
		}
		statements = append(statements, "ALTER "+name+" OWNER TO "+postgres.QuoteIdentifier(object.Owner))
		if object.Grants != nil {
			statements = append(statements, r.grantStatements(name, object.Owner, object.Grants)...)
		}
		if len(statements) >= largeObjectStatements {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

func securityLabelSQL(object string, label catalog.SecurityLabel) string {
	return "SECURITY LABEL FOR " + postgres.QuoteIdentifier(label.Provider) + " ON " + object + " IS " + postgres.QuoteLiteral(label.Label)
}
