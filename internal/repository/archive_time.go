package repository

// fixArchiveTime sets the creation time in the header of pg_dump's custom format to 2000-01-01 00:00:00, when the
// beginning is one that this version knows: so that an unchanged schema gives equal bytes hour after hour. Nothing
// that a restore uses is lost: the time of the snapshot is in its manifest.
//
// The header (PostgreSQL source, pg_backup_archiver.c, WriteHead): "PGDMP", version major, minor and revision, size of an
// integer, size of an offset, format; then the compression, which is one byte from archive version 1.15 on and an integer before;
// then second, minute, hour, day, month, year and daylight saving time as integers. An integer is a sign byte and its
// size in bytes, least significant first.
func fixArchiveTime(head []byte) {
	const custom = 1
	if len(head) < 11 || string(head[:5]) != "PGDMP" || head[5] != 1 || head[10] != custom {
		return
	}
	minor, integer := head[6], int(head[8])
	if minor < 13 || minor > 16 || integer != 4 {
		return
	}
	at := 12
	if minor < 15 {
		at = 11 + 1 + integer
	}
	fields := [7]uint32{0, 0, 0, 1, 0, 100, 0}
	if len(head) < at+len(fields)*(1+integer) {
		return
	}
	for _, value := range fields {
		clear(head[at : at+1+integer])
		head[at+1] = byte(value)
		at += 1 + integer
	}
}
