/* The floor under every driver: bare calls of the system's SQLite, without Python. Built by sqlite_floor.py. */

#include <sqlite3.h>
#include <string.h>

/* Steps through all rows and reads every column by its type. Returns the number of rows, -1 on an error. */
static long drain(sqlite3_stmt *statement) {
    volatile long long sink = 0;
    long rows = 0;
    int code;
    while ((code = sqlite3_step(statement)) == SQLITE_ROW) {
        int columns = sqlite3_data_count(statement);
        for (int i = 0; i < columns; i++) {
            switch (sqlite3_column_type(statement, i)) {
            case SQLITE_INTEGER: sink += sqlite3_column_int64(statement, i); break;
            case SQLITE_FLOAT: sink += (long long)sqlite3_column_double(statement, i); break;
            case SQLITE_TEXT: sink += sqlite3_column_text(statement, i)[0] + sqlite3_column_bytes(statement, i); break;
            }
        }
        rows++;
    }
    sqlite3_reset(statement);
    return code == SQLITE_DONE ? rows : -1;
}

int floor_open(const char *path, sqlite3 **db) {
    return sqlite3_open_v2(path, db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, 0);
}

int floor_exec(sqlite3 *db, const char *sql) { return sqlite3_exec(db, sql, 0, 0, 0); }

int floor_prepare(sqlite3 *db, const char *sql, sqlite3_stmt **statement) {
    return sqlite3_prepare_v3(db, sql, -1, SQLITE_PREPARE_PERSISTENT, statement, 0);
}

/* Runs the statement once for each key from `first` on, bound to the parameter if there is one. */
long floor_run(sqlite3_stmt *statement, long long first, long count) {
    long rows = 0;
    for (long i = 0; i < count; i++) {
        if (sqlite3_bind_parameter_count(statement)) sqlite3_bind_int64(statement, 1, first + i);
        long found = drain(statement);
        if (found < 0) return -1;
        rows += found;
    }
    return rows;
}

/* One row a turn: an integer, a text, a float, an integer and a text, as in the table `item`. */
long floor_insert(sqlite3_stmt *statement, long count) {
    for (long i = 0; i < count; i++) {
        char name[32];
        sqlite3_snprintf(sizeof name, name, "item %ld", i);
        sqlite3_bind_int64(statement, 1, i);
        sqlite3_bind_text(statement, 2, name, (int)strlen(name), SQLITE_STATIC);
        sqlite3_bind_double(statement, 3, i * 1.25);
        sqlite3_bind_int64(statement, 4, i % 977);
        if (i % 3) sqlite3_bind_text(statement, 5, "in stock", 8, SQLITE_STATIC);
        else sqlite3_bind_null(statement, 5);
        if (sqlite3_step(statement) != SQLITE_DONE) return -1;
        sqlite3_reset(statement);
    }
    return count;
}

void floor_finalize(sqlite3_stmt *statement) { sqlite3_finalize(statement); }

void floor_close(sqlite3 *db) { sqlite3_close_v2(db); }
