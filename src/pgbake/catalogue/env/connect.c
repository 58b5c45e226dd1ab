/* connect: a PostgreSQL server's socket is in /tmp by default and in /var/run/postgresql on Debian's
 * machines. A client that finds nobody at the first also tries the second. */
#include "env.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/un.h>

#define HERE "/tmp/.s.PGSQL."
#define THERE "/var/run/postgresql/.s.PGSQL."

/* Whether ADDRESS is HERE and a port; if so, OTHER is THERE and this port. */
static bool elsewhere(const struct sockaddr_un *address, socklen_t length, struct sockaddr_un *other)
{
    char path[sizeof address->sun_path + 1] = "";
    const char *port = path + sizeof HERE - 1;

    if (length <= offsetof(struct sockaddr_un, sun_path) || length > sizeof *address ||
        address->sun_family != AF_UNIX)
        return false;
    memcpy(path, address->sun_path, length - offsetof(struct sockaddr_un, sun_path));
    if (strncmp(path, HERE, sizeof HERE - 1) != 0 || !*port || port[strspn(port, "0123456789")])
        return false;
    *other = (struct sockaddr_un){.sun_family = AF_UNIX};
    return (size_t)snprintf(other->sun_path, sizeof other->sun_path, THERE "%s", port) < sizeof other->sun_path;
}

EXPORT int connect(int fd, __CONST_SOCKADDR_ARG address, socklen_t length)
{
    struct sockaddr_un other;

    if (!libc.connect)
        start();
    int result = libc.connect(fd, address.__sockaddr__, length), error = errno;
    if (result < 0 && (error == ENOENT || error == ECONNREFUSED) &&
        elsewhere(address.__sockaddr_un__, length, &other)) {
        result = libc.connect(fd, (const struct sockaddr *)&other, sizeof other);
        errno = error;
    }
    return result;
}
