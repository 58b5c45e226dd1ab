/* libpgbake-env.so: gives a bundle's libraries their paths, and withdraws them from all that is started.
 *
 * It is the first NEEDED of each executable of a bundle, so its constructor runs before main() and its
 * definitions are found before those of libc, libperl, libpython and libtcl:
 *
 *   libpgbake-env.c  the constructor sets the variables of the table (LOCPATH, GCONV_PATH, ...);
 *                    exec* and posix_spawn* hand on an environment without them: what is started is the
 *                    machine's own and has another libc, or it is the bundle's and sets them itself
 *   process.c        popen and system do likewise; popen also answers "locale -a" and pages by our less
 *   language.c       perl_parse, Py_Initialize, Tcl_Init tell each language where its own library lies
 *   connect.c        connect looks for a server's socket where Debian's machines have it, too
 *
 * Rules: a variable that the user has set, even to nothing, is the user's and stays, everywhere. A value
 * equal to the one we would set counts as ours, since a process that we do not see may have handed it on.
 *
 * table.h is generated for each bundle by pgbake.bundle.environment, which describes it.
 *
 *   cc -std=c11 -D_GNU_SOURCE -O2 -fPIC -shared -fvisibility=hidden -Wl,-z,relro,-z,now \
 *      -I DIRECTORY_OF_TABLE -o libpgbake-env.so libpgbake-env.c process.c language.c connect.c
 */
#include "env.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One variable. Lists are joined by ':'. */
struct row {
    const char *name;
    const char *paths;  /* one that begins with '/' is the machine's, any other the bundle's; what does not
                         * exist is left out */
    const char *unless; /* set nothing where one of these variables is set or of these paths ('/') exists */
    bool first;         /* the value is the first path that exists, not all of them */
};

#define TABLE_OF_VARIABLES
#include "table.h"

bool next_part(const char **list, char out[PATH_MAX])
{
    size_t length = strcspn(*list, ":");

    if (!**list)
        return false;
    snprintf(out, PATH_MAX, "%.*s", (int)length, *list);
    *list += length + ((*list)[length] == ':');
    return true;
}

/* ---- where the bundle is ---- */

/* The bundle's root by the name that we were loaded by, and by that directory's real name. They differ
 * where a service's own directory holds links to a bundle's lib and share: its names outlive a switch of
 * these links, the real ones also lead to what the service has no link for. */
static char roots[2][PATH_MAX];

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

/* Shorten DIR (absolute) in place to the root, if it ends with library_dir. */
static bool cut_to_root(char *dir)
{
    size_t length = strlen(dir), tail = strlen(library_dir);

    if (length <= tail + 1 || dir[length - tail - 1] != '/' || strcmp(dir + length - tail, library_dir) != 0)
        return false;
    dir[length - tail - 1] = '\0';
    return true;
}

/* Take "." and "x/.." out of an absolute path, in place. By name only: ld.so made it from $ORIGIN, which
 * holds no link, and from a DT_RPATH that climbs before it descends. */
static void tidy(char *path)
{
    char *end = path;

    for (char *part = path; *part == '/';) {
        size_t length = 1 + strcspn(part + 1, "/");
        if (length == 3 && memcmp(part, "/..", 3) == 0) {
            while (end > path && *--end != '/')
                ;
        } else if (length > 2 || (length == 2 && part[1] != '.')) {
            memmove(end, part, length);
            end += length;
        }
        part += length;
    }
    *end = '\0';
}

static void find_roots(void)
{
    Dl_info self;
    const char *name = dladdr(roots, &self) ? self.dli_fname : "";
    char *root = roots[0], *slash;

    if (name[0] == '/' && strlen(name) < PATH_MAX) {
        strcpy(root, name);
        *strrchr(root, '/') = '\0'; /* the library's own last link leads into another package: not followed */
        if (!realpath(root, roots[1]) || !cut_to_root(roots[1]))
            roots[1][0] = '\0';
        tidy(root);
        if (cut_to_root(root))
            return;
    }
    /* Loaded by a relative name: the nearest directory above the program that has this library. */
    ssize_t length = readlink("/proc/self/exe", root, PATH_MAX - 1);
    root[length > 0 ? length : 0] = '\0';
    while ((slash = strrchr(root, '/'))) {
        char path[2 * PATH_MAX];
        *slash = '\0';
        snprintf(path, sizeof path, "%s/%s/libpgbake-env.so", root, library_dir);
        if (exists(path))
            return;
    }
}

bool locate(const char *path, char out[PATH_MAX])
{
    for (size_t i = 0; i < LENGTH(roots); i++)
        if (roots[i][0] && snprintf(out, PATH_MAX, "%s/%s", roots[i], path) < PATH_MAX && exists(out))
            return true;
    return false;
}

/* ---- the variables of this process ---- */

/* "NAME=value" of each variable that is in the environment by our doing. Written by the constructor only,
 * so that any thread, and the child of a vfork, may read it. */
static char *given[LENGTH(rows)];
static size_t given_count;

static bool ruled_out(const struct row *row)
{
    char part[PATH_MAX];

    for (const char *list = row->unless; next_part(&list, part);)
        if (part[0] == '/' ? exists(part) : getenv(part) != NULL)
            return true;
    return false;
}

/* Put "NAME=value" into ENTRY; say whether there is a value, and whether it names the bundle. */
static bool describe(const struct row *row, char *entry, size_t size, bool *names_bundle)
{
    size_t used = (size_t)snprintf(entry, size, "%s=", row->name);
    const char *separator = "";
    char part[PATH_MAX], found[PATH_MAX];

    *names_bundle = false;
    for (const char *list = row->paths; next_part(&list, part);) {
        bool ours = part[0] != '/';
        if (!(ours ? locate(part, found) : exists(part)))
            continue;
        used += (size_t)snprintf(entry + used, size - used, "%s%s", separator, ours ? found : part);
        if (used >= size)
            return false;
        *names_bundle |= ours;
        separator = ":";
        if (row->first)
            break;
    }
    return *separator;
}

static void give(const struct row *row)
{
    char entry[2 * PATH_MAX];
    const char *set = getenv(row->name);
    bool names_bundle;

    if (ruled_out(row) || !describe(row, entry, sizeof entry, &names_bundle))
        return;
    if (set && !(names_bundle && strcmp(set, strchr(entry, '=') + 1) == 0))
        return;
    char *kept = strdup(entry);
    if (kept && (set || putenv(kept) == 0))
        given[given_count++] = kept;
}

struct libc libc;

__attribute__((constructor)) void start(void)
{
    if (libc.connect)
        return;
    libc.execve = dlsym(RTLD_NEXT, "execve");
    libc.execvpe = dlsym(RTLD_NEXT, "execvpe");
    libc.fexecve = dlsym(RTLD_NEXT, "fexecve");
    libc.posix_spawn = dlsym(RTLD_NEXT, "posix_spawn");
    libc.posix_spawnp = dlsym(RTLD_NEXT, "posix_spawnp");
    libc.pclose = dlsym(RTLD_NEXT, "pclose");
    libc.connect = dlsym(RTLD_NEXT, "connect");
    find_roots();
    for (const struct row *row = rows; row->name; row++)
        give(row);
}

/* ---- what is started sees none of them ----
 * Everything here may run in the child of a fork or vfork of a program with threads: no malloc, no lock,
 * nothing written but the caller's stack. */

static bool is_given(const char *entry)
{
    for (size_t i = 0; i < given_count; i++)
        if (strcmp(entry, given[i]) == 0)
            return true;
    return false;
}

/* How many pointers withdraw() needs for this environment. */
static size_t room(char *const envp[])
{
    size_t count = 0;

    while (envp && envp[count])
        count++;
    return count + 1;
}

static void withdraw(char *const envp[], char *kept[])
{
    size_t count = 0;

    if (!libc.connect)
        start();
    for (; envp && *envp; envp++)
        if (!is_given(*envp))
            kept[count++] = *envp;
    kept[count] = NULL;
}

/* Declare KEPT: ENVP without what we gave. */
#define WITHDRAW(kept, envp)                                                                                 \
    char *kept[room(envp)];                                                                                  \
    withdraw(envp, kept)

EXPORT int execve(const char *path, char *const argv[], char *const envp[])
{
    WITHDRAW(kept, envp);
    return libc.execve(path, argv, kept);
}

EXPORT int execvpe(const char *file, char *const argv[], char *const envp[])
{
    WITHDRAW(kept, envp);
    return libc.execvpe(file, argv, kept);
}

EXPORT int fexecve(int fd, char *const argv[], char *const envp[])
{
    WITHDRAW(kept, envp);
    return libc.fexecve(fd, argv, kept);
}

EXPORT int posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *actions,
                       const posix_spawnattr_t *attributes, char *const argv[], char *const envp[])
{
    WITHDRAW(kept, envp);
    return libc.posix_spawn(pid, path, actions, attributes, argv, kept);
}

EXPORT int posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *actions,
                        const posix_spawnattr_t *attributes, char *const argv[], char *const envp[])
{
    WITHDRAW(kept, envp);
    return libc.posix_spawnp(pid, file, actions, attributes, argv, kept);
}

EXPORT int execv(const char *path, char *const argv[])
{
    return execve(path, argv, environ);
}

EXPORT int execvp(const char *file, char *const argv[])
{
    return execvpe(file, argv, environ);
}

/* Declare ARGV: the arguments from FIRST to the NULL. LIST, to be ended, then stands behind the NULL. */
#define GATHER(argv, first, list)                                                                            \
    size_t count = 0;                                                                                        \
    va_list list;                                                                                            \
    va_start(list, first);                                                                                   \
    for (const char *arg = first; arg; arg = va_arg(list, const char *))                                     \
        count++;                                                                                             \
    va_end(list);                                                                                            \
    char *argv[count + 1];                                                                                   \
    va_start(list, first);                                                                                   \
    argv[0] = (char *)first;                                                                                 \
    for (size_t i = 1; i <= count; i++)                                                                      \
        argv[i] = va_arg(list, char *)

EXPORT int execl(const char *path, const char *first, ...)
{
    GATHER(argv, first, list);
    va_end(list);
    return execve(path, argv, environ);
}

EXPORT int execlp(const char *file, const char *first, ...)
{
    GATHER(argv, first, list);
    va_end(list);
    return execvpe(file, argv, environ);
}

EXPORT int execle(const char *path, const char *first, ...)
{
    GATHER(argv, first, list);
    char *const *envp = va_arg(list, char *const *);
    va_end(list);
    return execve(path, argv, envp);
}
