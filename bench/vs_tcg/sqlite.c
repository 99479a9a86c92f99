/* SQLite with a database in memory: a transaction of inserts, look-ups by key, a scan. */
#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>

#include "work.h"

#define ROWS	20000
#define INSERTS 500
#define SELECTS 500

static sqlite3 *db;
static sqlite3_stmt *insert, *query;

static void check(int result, int wanted)
{
	if (result == wanted)
		return;
	fprintf(stderr, "work: sqlite: %s\n", sqlite3_errmsg(db));
	errno = 0;
	work_die("sqlite");
}

static void execute(const char *sql)
{
	check(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
}

static void prepare(const char *sql, sqlite3_stmt **statement)
{
	check(sqlite3_prepare_v2(db, sql, -1, statement, NULL), SQLITE_OK);
}

static void insert_rows(int n)
{
	uint64_t state = 19;
	char value[48];

	execute("BEGIN");
	for (int i = 0; i < n; i++) {
		uint64_t key = work_random(&state) >> 33;

		snprintf(value, sizeof(value), "value %llu of row %d", (unsigned long long)key, i);
		sqlite3_bind_int(insert, 1, i);
		sqlite3_bind_int64(insert, 2, key);
		sqlite3_bind_text(insert, 3, value, -1, SQLITE_STATIC);
		check(sqlite3_step(insert), SQLITE_DONE);
		sqlite3_reset(insert);
	}
	execute("COMMIT");
}

static void insert_setup(void)
{
	check(sqlite3_open(":memory:", &db), SQLITE_OK);
	execute("CREATE TABLE t(id INTEGER PRIMARY KEY, k INTEGER, v TEXT);"
		"CREATE INDEX i ON t(k)");
	prepare("INSERT INTO t VALUES(?, ?, ?)", &insert);
	prepare("SELECT sum(k) + count(*) FROM t", &query);
}

static uint64_t result_of(sqlite3_stmt *statement)
{
	uint64_t value;

	check(sqlite3_step(statement), SQLITE_ROW);
	value = sqlite3_column_int64(statement, 0);
	sqlite3_reset(statement);
	return value;
}

static uint64_t insert_unit(void)
{
	execute("DELETE FROM t");
	insert_rows(INSERTS);
	return result_of(query);
}

static void select_setup(void)
{
	insert_setup();
	insert_rows(ROWS);
	prepare("SELECT k + length(v) FROM t WHERE id = ?", &query);
}

static uint64_t select_unit(void)
{
	uint64_t state = 23, hash = 0;

	for (int i = 0; i < SELECTS; i++) {
		sqlite3_bind_int(query, 1, work_random(&state) % ROWS);
		hash = work_hash(hash, result_of(query));
	}
	return hash;
}

static void scan_setup(void)
{
	insert_setup();
	insert_rows(ROWS);
	prepare("SELECT sum(k) FROM t WHERE v LIKE '%7 of row%'", &query);
}

static uint64_t scan_unit(void)
{
	return result_of(query);
}

const struct work sqlite_works[] = {
	{.name = "sqlite_insert", .ops = INSERTS, .setup = insert_setup, .unit = insert_unit},
	{.name = "sqlite_select", .ops = SELECTS, .setup = select_setup, .unit = select_unit},
	{.name = "sqlite_scan", .ops = ROWS, .setup = scan_setup, .unit = scan_unit},
	{},
};
