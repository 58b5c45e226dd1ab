/* LDAP over TLS: libldap knows no CA but one that its configuration names. Where nobody has named one, it trusts
 * whom all other programs of the bundle trust. A variable (LDAPTLS_CACERT) would not do: it goes before the
 * ldap.conf of the machine and of the user.
 */
#include "env.h"

#include <stdlib.h>

#define LDAP_OPT_X_TLS_CACERTFILE 0x6002
#define LDAP_OPT_X_TLS_CACERTDIR 0x6003

static void name_authorities(void *caller)
{
    int (*get)(void *, int, void *) = real_function("ldap_get_option", caller);
    int (*set)(void *, int, const void *) = real_function("ldap_set_option", caller);
    void (*release)(void *) = real_function("ldap_memfree", caller);
    char *file = NULL, *dir = NULL, ours[PATH_MAX];

    if (get(NULL, LDAP_OPT_X_TLS_CACERTFILE, &file) == 0 && get(NULL, LDAP_OPT_X_TLS_CACERTDIR, &dir) == 0 &&
        !file && !dir) {
        const char *theirs = getenv("SSL_CERT_FILE");
        if (theirs ? *theirs : first_path("SSL_CERT_FILE", ours))
            set(NULL, LDAP_OPT_X_TLS_CACERTFILE, theirs ? theirs : ours);
    }
    release(file);
    release(dir);
}

EXPORT int ldap_initialize(void **session, const char *uri)
{
    int (*initialize)(void **, const char *) = real_function("ldap_initialize", CALLER);

    name_authorities(CALLER);
    return initialize(session, uri);
}

EXPORT void *ldap_init(const char *host, int port)
{
    void *(*init)(const char *, int) = real_function("ldap_init", CALLER);

    name_authorities(CALLER);
    return init(host, port);
}
