/* What the parts of libpgbake-env.so share; libpgbake-env.c says what the library is. */
#ifndef PGBAKE_ENV_H
#define PGBAKE_ENV_H

#ifndef _GNU_SOURCE
#error "compile with -D_GNU_SOURCE"
#endif
#include <grp.h>
#include <iconv.h>
#include <limits.h>
#include <locale.h>
#include <pwd.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/socket.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))
#define EXPORT __attribute__((visibility("default")))
#define CALLER __builtin_extract_return_addr(__builtin_return_address(0))

/* Find PATH of the bundle: its absolute name in OUT, or false if it is nowhere. */
bool locate(const char *path, char out[PATH_MAX]);

/* Whether an absolute path lies in the bundle. */
bool in_bundle(const char *path);

/* Where the bundle has its libraries, below its root. */
extern const char library_directory[];

/* Copy the next part of a list joined by ':' to OUT and move LIST behind it; false at the end. */
bool next_part(const char **list, char out[PATH_MAX]);

/* The value of a variable that is in the environment by our doing; NULL if it is the user's, or not set. */
const char *our_value(const char *variable);

/* The first path that exists of a variable of the table, whether it had to be set or not. */
bool first_path(const char *variable, char out[PATH_MAX]);

/* The function NAME that ours of the same name stands before, for CALLER. */
void *real_function(const char *name, void *caller);

/* Where libc looks for gconv modules after GCONV_PATH. */
extern const char machines_gconv[];

/* A file that reads as the output of "locale -a", from directories joined by ':'; NULL with errno set. */
FILE *list_locales(const char *locpath);

/* Answer every database of nsswitch.conf by what is built into libc. */
void close_name_services(void);

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
    char *(*secure_getenv)(const char *);
    void *(*dlopen)(const char *, int);
    char *(*setlocale)(int, const char *);
    locale_t (*newlocale)(int, const char *, locale_t);
    iconv_t (*iconv_open)(const char *, const char *);
    int (*getpwnam_r)(const char *, struct passwd *, char *, size_t, struct passwd **);
    int (*getpwuid_r)(uid_t, struct passwd *, char *, size_t, struct passwd **);
    int (*getgrnam_r)(const char *, struct group *, char *, size_t, struct group **);
    int (*getgrgid_r)(gid_t, struct group *, char *, size_t, struct group **);
} libc;

/* End the process with a message where the kernel is too old for one of the libraries that it has loaded. */
void require_kernel(void);

/* The constructor; a wrapper calls it itself where another library's constructor comes before it. */
void start(void);

#endif
