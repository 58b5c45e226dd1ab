/* Prints, as JSON, the versions that a bundle's collations depend on: what PostgreSQL records for each
 * collation (pg_collation.collversion) and compares when an index is used on another machine.
 *
 * It is a program of the bundle, run by the merge, so that the receipt tells what the bundle's own
 * libraries say and not what their packages are called.
 *
 *   cc -O2 -o versions versions.c -licui18n -licuuc
 */
#include <stdio.h>

#include <gnu/libc-version.h>
#include <unicode/ucol.h>
#include <unicode/uchar.h>
#include <unicode/uversion.h>

static void print_version(const char *name, const UVersionInfo version, const char *end)
{
    char text[U_MAX_VERSION_STRING_LENGTH];

    u_versionToString(version, text);
    printf("\"%s\": \"%s\"%s", name, text, end);
}

int main(void)
{
    UErrorCode status = U_ZERO_ERROR;
    UVersionInfo version;
    UCollator *root = ucol_open("", &status);

    if (U_FAILURE(status)) {
        fprintf(stderr, "cannot open ICU's root collator: %s\n", u_errorName(status));
        return 1;
    }
    printf("{\"libc\": \"%s\", ", gnu_get_libc_version());
    u_getVersion(version);
    print_version("icu", version, ", ");
    u_getUnicodeVersion(version);
    print_version("unicode", version, ", ");
    ucol_getVersion(root, version);
    print_version("icu-collator", version, "}\n");
    ucol_close(root);
    return 0;
}
