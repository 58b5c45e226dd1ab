/* Accounts and hosts: no NSS module of the machine's is ever loaded.
 *
 * A module that the machine's nsswitch.conf names was built for the machine's libc and not for ours. So every
 * database is answered by what is built into libc: "files", and "files dns" for hosts. Whom the machine knows
 * otherwise (SSSD, LDAP, systemd) is still found by name or number: where the files know nobody, the machine's
 * own getent is asked, a process of its own with the machine's own libc. It answers within PATIENCE or is
 * killed, and nothing that befalls it is seen here but as "not found".
 */
#include "env.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <nss.h>
#include <poll.h>
#include <pthread.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef PATIENCE
#define PATIENCE 10000 /* milliseconds: less than a server gives a client to log in */
#endif
#define LONGEST (1 << 20) /* a group with very many members */

static const char *const getents[] = {"/usr/bin/getent", "/bin/getent", "/run/current-system/sw/bin/getent"};

void close_name_services(void)
{
    static const char *const databases[] = {
        "aliases", "ethers", "group", "gshadow", "initgroups", "netgroup", "networks", "passwd", "protocols",
        "publickey", "rpc", "services", "shadow",
    };

    for (size_t i = 0; i < LENGTH(databases); i++)
        __nss_configure_lookup(databases[i], "files");
    __nss_configure_lookup("hosts", "files dns");
}

static int milliseconds_until(const struct timespec *end)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    long left = (end->tv_sec - now.tv_sec) * 1000 + (end->tv_nsec - now.tv_nsec) / 1000000;
    return left > 0 ? (int)left : 0;
}

/* All that FD gives until its end, in memory of its own; NULL if that is nothing, too much or takes too long. */
static char *read_all(int fd, size_t *length)
{
    char *text = NULL;
    struct timespec end;

    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += PATIENCE / 1000;
    end.tv_nsec += PATIENCE % 1000 * 1000000; /* milliseconds_until takes more than a second of them */
    for (size_t used = 0, size = 0;;) {
        struct pollfd waiting = {.fd = fd, .events = POLLIN};
        if (used == size) {
            char *more = size < LONGEST ? realloc(text, size = size ? 2 * size : 1024) : NULL;
            if (!more)
                break;
            text = more;
        }
        int ready = poll(&waiting, 1, milliseconds_until(&end));
        if (ready < 0 && errno == EINTR)
            continue;
        ssize_t got = ready > 0 ? read(fd, text + used, size - used) : -1;
        if (got < 0 && ready > 0 && errno == EINTR)
            continue;
        if (got == 0 && used > 0) {
            *length = used;
            return text;
        }
        if (got <= 0)
            break;
        used += (size_t)got;
    }
    free(text);
    return NULL;
}

/* Start the machine's getent with its answer to OUTPUT; false if there is none. */
static bool start_getent(const char *database, const char *key, int output, pid_t *pid)
{
    char *argv[] = {"getent", (char *)database, (char *)key, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t all, none;
    bool started = false;

    sigfillset(&all);
    sigemptyset(&none);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    posix_spawn_file_actions_init(&actions);
    if (posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO) == 0 &&
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0) == 0 &&
        posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0) == 0)
        for (size_t i = 0; i < LENGTH(getents) && !started; i++)
            started = posix_spawn(pid, getents[i], &actions, &attributes, argv, environ) == 0;
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    return started;
}

/* What the machine's getent says of KEY, as a file to read; NULL if it says nothing. */
static FILE *ask(const char *database, const char *key, char **text)
{
    sigset_t child, mask;
    size_t length = 0;
    int ends[2], cancel;
    pid_t pid;

    *text = NULL;
    if (!*key || *key == '-' || pipe2(ends, O_CLOEXEC) < 0)
        return NULL;
    /* The caller's own handler of SIGCHLD finds nobody to wait for. */
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    pthread_sigmask(SIG_BLOCK, &child, &mask);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
    bool started = start_getent(database, key, ends[1], &pid);
    close(ends[1]);
    if (started) {
        *text = read_all(ends[0], &length);
        kill(pid, SIGKILL); /* it has said all, or will not */
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    close(ends[0]);
    pthread_setcancelstate(cancel, NULL);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    FILE *file = *text ? fmemopen(*text, length, "r") : NULL;
    if (!file)
        free(*text);
    return file;
}

/* Ask for an entry; the same result as getpwnam_r's and getgrnam_r's. A key of digits is a number to getent, so
 * that the answer may be about somebody else. */
#define ASK(database, key, read, entry, buffer, size, result, same)                                          \
    int before = errno, error = 0;                                                                           \
    char *text;                                                                                              \
    FILE *file = ask(database, key, &text);                                                                  \
    *(result) = NULL;                                                                                        \
    if (file) {                                                                                              \
        error = read(file, entry, buffer, size, result);                                                     \
        if (error || !(same))                                                                                \
            *(result) = NULL;                                                                                \
        error = error == ERANGE ? ERANGE : 0;                                                                \
        fclose(file);                                                                                        \
        free(text);                                                                                          \
    }                                                                                                        \
    errno = before;                                                                                          \
    return error

static int ask_for_name(const char *name, struct passwd *entry, char *buffer, size_t size, struct passwd **result)
{
    ASK("passwd", name, fgetpwent_r, entry, buffer, size, result, strcmp(entry->pw_name, name) == 0);
}

static int ask_for_uid(uid_t uid, struct passwd *entry, char *buffer, size_t size, struct passwd **result)
{
    char key[32];

    snprintf(key, sizeof key, "%lu", (unsigned long)uid);
    ASK("passwd", key, fgetpwent_r, entry, buffer, size, result, entry->pw_uid == uid);
}

static int ask_for_group(const char *name, struct group *entry, char *buffer, size_t size, struct group **result)
{
    ASK("group", name, fgetgrent_r, entry, buffer, size, result, strcmp(entry->gr_name, name) == 0);
}

static int ask_for_gid(gid_t gid, struct group *entry, char *buffer, size_t size, struct group **result)
{
    char key[32];

    snprintf(key, sizeof key, "%lu", (unsigned long)gid);
    ASK("group", key, fgetgrent_r, entry, buffer, size, result, entry->gr_gid == gid);
}

/* The four functions and those with a buffer of their own: libc's answer, else getent's. */
#define LOOKUP(function, type, key_type, ask)                                                                \
    EXPORT int function##_r(key_type key, struct type *entry, char *buffer, size_t size,                     \
                            struct type **result)                                                            \
    {                                                                                                        \
        if (!libc.connect)                                                                                   \
            start();                                                                                         \
        int error = libc.function##_r(key, entry, buffer, size, result);                                     \
        return error || *result ? error : ask(key, entry, buffer, size, result);                             \
    }                                                                                                        \
                                                                                                             \
    EXPORT struct type *function(key_type key)                                                               \
    {                                                                                                        \
        static struct type entry;                                                                            \
        static char *buffer;                                                                                 \
        static size_t size;                                                                                  \
        struct type *result = NULL;                                                                          \
        int error = ERANGE;                                                                                  \
                                                                                                             \
        while (error == ERANGE && size <= LONGEST) {                                                         \
            if (size) /* the first round has no buffer yet */                                                \
                error = function##_r(key, &entry, buffer, size, &result);                                    \
            if (error == ERANGE) {                                                                           \
                char *more = realloc(buffer, size ? 2 * size : 1024);                                        \
                if (!more)                                                                                   \
                    return NULL;                                                                             \
                size = size ? 2 * size : 1024;                                                               \
                buffer = more;                                                                               \
            }                                                                                                \
        }                                                                                                    \
        if (error)                                                                                           \
            errno = error;                                                                                   \
        return result;                                                                                       \
    }

LOOKUP(getpwnam, passwd, const char *, ask_for_name)
LOOKUP(getpwuid, passwd, uid_t, ask_for_uid)
LOOKUP(getgrnam, group, const char *, ask_for_group)
LOOKUP(getgrgid, group, gid_t, ask_for_gid)
