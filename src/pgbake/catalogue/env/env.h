/* What the parts of libpgbake-env.so share; libpgbake-env.c says what the library is. */
#ifndef PGBAKE_ENV_H
#define PGBAKE_ENV_H

#ifndef _GNU_SOURCE
#error "compile with -D_GNU_SOURCE"
#endif
#include <limits.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/socket.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))
#define EXPORT __attribute__((visibility("default")))

/* Find PATH of the bundle: its absolute name in OUT, or false if it is nowhere. */
bool locate(const char *path, char out[PATH_MAX]);

/* Copy the next part of a list joined by ':' to OUT and move LIST behind it; false at the end. */
bool next_part(const char **list, char out[PATH_MAX]);

typedef int spawn_function(pid_t *, const char *, const posix_spawn_file_actions_t *,
                           const posix_spawnattr_t *, char *const[], char *const[]);

/* The functions of libc that ours stand before. They are looked up once, by start(), because dlsym takes
 * locks and so must not be called between a fork and an exec. */
extern struct libc {
    int (*execve)(const char *, char *const[], char *const[]);
    int (*execvpe)(const char *, char *const[], char *const[]);
    int (*fexecve)(int, char *const[], char *const[]);
    spawn_function *posix_spawn, *posix_spawnp;
    int (*pclose)(FILE *);
    int (*connect)(int, const struct sockaddr *, socklen_t);
} libc;

/* The constructor; a wrapper calls it itself where another library's constructor comes before it. */
void start(void);

#endif
