/* dlopen: Kerberos, PKCS#11 and curses load no module of the machine's.
 *
 * Where these look is compiled in, or stands in the machine's krb5.conf, /etc/gss or p11-kit's registry beside
 * what should be followed (realms, servers), and no variable changes it. A module of the machine's was built for
 * the machine's libraries, not for ours. So to these callers a file outside the bundle is absent, and one below
 * /usr is the bundle's of that name. Where the user's own KRB5_CONFIG or GSS_MECH_CONFIG is set, Kerberos loads
 * what it says. All other callers load what they are told: the server, languages and PAM, by the word of a user.
 */
#include "env.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *library;      /* how the name of its file begins */
    const char *variables[2]; /* of the user's own, by which the library is told what to load */
} confined[] = {
    {"libkrb5support.", {"KRB5_CONFIG", "GSS_MECH_CONFIG"}},
    {"libp11-kit.", {NULL, NULL}},
    {"libncurses", {NULL, NULL}},
};

static bool is_confined(void *caller)
{
    Dl_info info;
    const char *name = dladdr(caller, &info) ? strrchr(info.dli_fname, '/') : NULL;

    for (size_t i = 0; name && i < LENGTH(confined); i++)
        if (strncmp(name + 1, confined[i].library, strlen(confined[i].library)) == 0) {
            for (size_t v = 0; v < LENGTH(confined[i].variables) && confined[i].variables[v]; v++)
                if (getenv(confined[i].variables[v]))
                    return false;
            return true;
        }
    return false;
}

/* FILE as CALLER may have it. A file that is not there makes dlopen say so. */
__attribute__((noinline)) static const char *permitted(const char *file, void *caller)
{
    static _Thread_local char ours[PATH_MAX];
    char path[2 * PATH_MAX];

    if (!file || in_bundle(file) || !is_confined(caller))
        return file;
    if (strncmp(file, "/usr/", 5) == 0)
        snprintf(path, sizeof path, "%s", file + 5);
    else
        snprintf(path, sizeof path, "%s/%s", library_directory, strrchr(file, '/') ? "none" : file);
    return strlen(path) < PATH_MAX && locate(path, ours) ? ours : "/nonexistent";
}

/* glibc knows the caller by the return address, and looks for a bare name where the caller would: so this must be
 * a jump, not a call. */
EXPORT void *dlopen(const char *file, int mode)
{
    if (!libc.dlopen)
        start();
    return libc.dlopen(permitted(file, CALLER), mode);
}
