# Shared by every job of a pipeline that reports to Waybill: . ci/waybill.sh
#
# WAYBILL_SERVER and WAYBILL_API_TOKEN (a token of the role reporter) come from the
# variables of the project. Without them nothing is reported, so that forks and copies
# work as they are. A report that fails is told of and stops nobody.

# waybill_tag BRANCH NUMBER is the tag of the image, and the only place that makes it: jobs that
# spell it differently never find each other.
waybill_tag() {
	printf '%s:%s-%s' "${SERVICE##*/}" "$(printf %s "${1#refs/heads/}" | tr '/._' '---')" "$2"
}

# waybill_report passes its arguments to waybill deployment create.
waybill_report() {
	if [ -z "${WAYBILL_SERVER:-}" ] || [ -z "${WAYBILL_API_TOKEN:-}" ]; then
		echo "WAYBILL_SERVER and WAYBILL_API_TOKEN are not set: nothing is reported"
		return 0
	fi
	waybill deployment create "$@" || echo "warning: waybill was not told, the pipeline goes on"
}
