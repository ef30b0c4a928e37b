"""Read the catalogues that suppliers upload."""
from defusedxml import ElementTree

from flask import Blueprint, jsonify, request

suppliers = Blueprint("suppliers", __name__)


@suppliers.post("/catalogue")
def catalogue():
    upload = request.files["catalogue"]
    root = ElementTree.parse(upload.stream).getroot()
    found = [{"sku": item.get("sku"), "title": item.findtext("title")} for item in root.iter("item")]
    return jsonify(items=found, count=len(found))
